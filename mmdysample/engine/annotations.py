"""COCO's annotation files, checked before mmdet and pycocotools read them.

pycocotools computes masks in C without looking: coordinates of 1e9 end the process by a signal,
NaN takes all memory, run lengths that do not add up never end. And mmdet leaves out, without a
word, the classes and boxes that it cannot place. https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.fileio import get

from mmdysample.engine.images import MAX_PIXELS
from mmdysample.errors import UserError
from mmdysample.registry import did_you_mean

# Characters of compressed run lengths hold 5 bits from the lowest on, and whether more follow.
_FIRST_CHARACTER, _LAST_CHARACTER = 48, 48 + 63
_LONGEST_RUN = 7


def read_annotations(
    path: str,
    classes: Sequence[str] | None = None,
    *,
    panoptic: bool = False,
    masks: bool = False,
    annotated: bool = True,
    evaluated: bool = False,
    backend_args: dict | None = None,
) -> dict:
    """The contents of a COCO file, after all that mmdet and pycocotools rely on was checked.

    Args:
        path: the file.
        classes: names that have to be among the categories; None if they are not known.
        panoptic: whether its annotations are panoptic segments.
        masks: whether every object of the classes needs a mask.
        annotated: whether there have to be annotations; a test set has none.
        evaluated: whether predictions are compared with it, which needs more than training.
        backend_args: as for mmengine's ``fileio``.

    Raises:
        UserError: what is wrong, with the ids of the image and of the annotation.
    """
    content = _read(path, backend_args)
    categories = _records(content, "categories", path)
    needed = {"isthing"} if panoptic else set()
    _check_ids(categories, "category", path, {"id", "name", *needed})
    if classes is not None:
        _check_classes(classes, [category["name"] for category in categories], path)
    sizes = _read_sizes(_records(content, "images", path), path)
    if "annotations" not in content and not annotated:
        return content
    annotations = _records(content, "annotations", path)
    chosen = {c["id"] for c in categories if classes is None or c["name"] in classes}
    if panoptic:
        _check_panoptic(annotations, sizes, chosen, path)
        return content
    known = {category["id"] for category in categories}
    _check_ids(annotations, "annotation", path, {"id"})
    masked = chosen if masks else set()
    for annotation in annotations:
        wrong = _wrong_object(annotation, sizes, known) or _wrong_mask(annotation, sizes, masked)
        if not wrong and evaluated:
            wrong = _wrong_for_evaluation(annotation)
        if wrong:
            image = f" of image {annotation['image_id']!r}" if "image_id" in annotation else ""
            raise UserError(f"annotation {annotation['id']!r}{image} in {path} {wrong}")
    return content


def _read(path: str, backend_args: dict | None) -> dict:
    try:
        content = json.loads(get(path, backend_args=backend_args))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"the annotation file {path} cannot be read: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"the annotation file {path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not in COCO's format: it holds no object with 'images'")
    return content


def _records(content: Mapping, key: str, path: str) -> list[dict]:
    if key not in content:
        raise UserError(f"{path} has no {key!r}: it is not in COCO's format")
    records = content[key]
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{key!r} of {path} must be a list of objects, as in COCO's format")
    return records


def _check_ids(records: list[dict], kind: str, path: str, needed: Collection[str]) -> None:
    """Every record has the keys that it needs and an id of its own."""
    seen = set()
    for number, record in enumerate(records):
        for key in needed:
            if key not in record:
                which = f"number {number}" if "id" not in record else repr(record["id"])
                raise UserError(f"{kind} {which} in {path} has no {key!r}")
        identity = record["id"]
        # Only images may be named: the ids of all others are compared with numbers.
        if not isinstance(identity, (int, str) if kind == "image" else int):
            raise UserError(f"{kind} number {number} in {path} has the id {identity!r}, no integer")
        if identity in seen:
            raise UserError(f"{path} has several records of {kind} {identity!r}")
        seen.add(identity)


def _check_classes(classes: Any, names: list[Any], path: str) -> None:
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise UserError(f"classes of metainfo must be a list of names, got {classes!r}")
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"a category of {path} has the name {name!r}, which is no text")
    repeated = [name for name in classes if list(classes).count(name) > 1]
    if repeated:
        raise UserError(f"classes of metainfo has {repeated[0]!r} more than once")
    missing = [name for name in classes if name not in names]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"class {missing[0]!r}{more} of metainfo is not among the categories of {path}"
            f"{did_you_mean(missing[0], names)}: set metainfo.classes to names that are there"
        )
    twice = [name for name in classes if names.count(name) > 1]
    if twice:
        raise UserError(f"{path} has several categories of the name {twice[0]!r}")


def _read_sizes(images: list[dict], path: str) -> dict[Any, tuple[int, int]]:
    """Height and width of each image, by its id."""
    _check_ids(images, "image", path, {"id", "file_name", "height", "width"})
    for image in images:
        if not isinstance(image["file_name"], str):
            raise UserError(f"image {image['id']!r} in {path} has a 'file_name' that is no text")
        size = [image["height"], image["width"]]
        sound = all(isinstance(side, (int, float)) and side == side // 1 > 0 for side in size)
        if not sound or size[0] * size[1] > MAX_PIXELS:
            raise UserError(
                f"image {image['id']!r} in {path} is {size[0]}x{size[1]} (height x width): both "
                f"must be integers above 0, and at most {MAX_PIXELS:,} pixels together"
            )
    return {image["id"]: (int(image["height"]), int(image["width"])) for image in images}


def _check_panoptic(
    annotations: list[dict], sizes: Mapping[Any, tuple[int, int]], known: set[int], path: str
) -> None:
    seen = set()
    for annotation in annotations:
        for key in ("image_id", "file_name", "segments_info"):
            if key not in annotation:
                raise UserError(
                    f"an annotation of {path} has no {key!r}: it is not in COCO's panoptic format"
                )
        image = annotation["image_id"]
        if not isinstance(image, (int, str)) or image not in sizes:
            raise UserError(f"an annotation of {path} is of image {image!r}, which is not in it")
        if image in seen:
            raise UserError(f"{path} has several annotations of image {image!r}")
        seen.add(image)
        segments = _records(annotation, "segments_info", f"image {image!r} in {path}")
        _check_ids(segments, "segment", f"image {image!r} in {path}", {"id"})
        for segment in segments:
            wrong = _wrong_object({**segment, "image_id": image}, sizes, known)
            if wrong:
                raise UserError(f"segment {segment['id']} of image {image!r} in {path} {wrong}")


def _wrong_object(
    annotation: Mapping, sizes: Mapping[Any, tuple[int, int]], known: set[int]
) -> str | None:
    """What is wrong with an object besides its mask: its image, category, box and area."""
    for key in ("image_id", "category_id", "bbox", "area"):
        if key not in annotation:
            return f"has no {key!r}"
    image, category = annotation["image_id"], annotation["category_id"]
    if not isinstance(image, (int, str)) or image not in sizes:
        return "is of an image that is not among the images of the file"
    if not isinstance(category, int) or category not in known:
        return f"is of category {category!r}, which is not among the known {_short(sorted(known))}"
    box, area = annotation["bbox"], annotation["area"]
    if not isinstance(box, list) or len(box) != 4 or not _are_numbers([*box, area]):
        return (
            "must have a 'bbox' of four finite numbers and one as 'area', "
            f"got {_short(box)} and {_short(area)}"
        )
    left, top, width, height = box
    low, high = _bounds(sizes[image])
    if width < 0 or height < 0 or area < 0:
        return f"has a box or an area of negative size: {box}, {area}"
    if left < low or top < low or left + width > high or top + height > high:
        return f"has a box far outside of its image of {_size(sizes[image])}: {box}"
    if annotation.get("iscrowd", 0) not in (0, 1):
        return f"must have an 'iscrowd' of 0 or 1, got {_short(annotation['iscrowd'])}"
    return None


def _wrong_mask(
    annotation: Mapping, sizes: Mapping[Any, tuple[int, int]], masked: set[int]
) -> str | None:
    mask = annotation.get("segmentation")
    if not mask or mask == [[]]:
        if annotation["category_id"] in masked and not annotation.get("ignore"):
            return "has no mask: its 'segmentation' is missing or empty"
        return None
    size = sizes[annotation["image_id"]]
    if isinstance(mask, dict):
        return _wrong_runs(mask, size)
    if not isinstance(mask, list):
        return f"must have polygons or run lengths as 'segmentation', got {_short(mask)}"
    low, high = _bounds(size)
    for polygon in mask:
        if not polygon or not _are_numbers(polygon):
            return (
                "must have polygons that are flat lists of finite numbers x, y, x, y, ..., "
                f"got {_short(polygon)}"
            )
        if min(polygon) < low or max(polygon) > high:
            return f"has a polygon far outside of its image of {_size(size)}: {_short(polygon)}"
    # mmdet passes over smaller parts of an object.
    if not any(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in mask):
        return f"has no polygon of at least three points, x and y of each: {_short(mask)}"
    return None


def _wrong_runs(mask: Mapping, size: tuple[int, int]) -> str | None:
    counts = mask.get("counts")
    if mask.get("size") != list(size):
        return (
            f"has run lengths for the 'size' {_short(mask.get('size'))}, "
            f"but its image is {_size(size)}"
        )
    if isinstance(counts, str):
        runs = _decompress(counts)
    elif isinstance(counts, list) and all(type(count) is int for count in counts):
        runs = counts
    else:
        runs = None
    if runs is None:
        return f"must have run lengths, integers or COCO's characters, got {_short(counts)}"
    if any(run < 0 for run in runs):
        return f"has a run length below 0: {_short(runs)}"
    if sum(runs) != size[0] * size[1]:
        return (
            f"has run lengths that add up to {sum(runs)}, "
            f"but its image has {size[0] * size[1]} pixels"
        )
    return None


def _decompress(text: str) -> list[int] | None:
    """Run lengths from COCO's characters, as ``rleFrString`` of pycocotools reads them.

    None if a character is none of these or a number is not complete, where that reads on in
    memory which is not the text's.
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
    if ((codes < _FIRST_CHARACTER) | (codes > _LAST_CHARACTER)).any():
        return None
    codes = codes - _FIRST_CHARACTER
    ends = np.flatnonzero((codes & 32) == 0)
    if not len(ends) or ends[-1] != len(codes) - 1:
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST_RUN:
        return None
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & 31) << shifts, starts)
    # The highest bit of the last character is the sign.
    values -= np.where(codes[ends] & 16, np.int64(1) << (5 * lengths), 0)
    # From the fourth on a number is the difference to the one before the last.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values.tolist()


def _wrong_for_evaluation(annotation: Mapping) -> str | None:
    if "iscrowd" not in annotation:
        return "has no 'iscrowd', which COCO's evaluation needs"
    if annotation["id"] == 0:
        return "cannot be evaluated: COCO's evaluation takes the id 0 for 'not found'"
    return None


def _are_numbers(values: Any) -> bool:
    """Whether it is a list of finite numbers; their sum says so in one pass without Python."""
    try:
        return isinstance(values, list) and math.isfinite(sum(values))
    except (TypeError, OverflowError):
        return False


def _bounds(size: tuple[int, int]) -> tuple[int, int]:
    """Coordinates that pycocotools can take and that may be meant: a whole image to each side."""
    side = max(size)
    return -side, 2 * side


def _size(size: Iterable[int]) -> str:
    return "{}x{} (height x width)".format(*size)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
