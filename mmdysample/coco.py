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

from mmengine.fileio import get

from mmdysample.errors import InvalidValue
from mmdysample.registry import did_you_mean

# Where PIL refuses an image as a decompression bomb.
MAX_PIXELS = 178_956_970
# The id of pixels that belong to no panoptic segment.
VOID = 0

_INTEGER, _TEXT, _LIST = (int, "an integer"), (str, "text"), (list, "a list")
_NUMBER, _INTEGER_OR_TEXT = ((int, float), "a number"), ((int, str), "an integer or text")
_CATEGORY = dict(id=_INTEGER, name=_TEXT)
_SEGMENT = dict(id=_INTEGER, category_id=_INTEGER, bbox=_LIST, area=_NUMBER)
# What is read of each kind of record. The first key tells one record from the others.
_KEYS = {
    "category": _CATEGORY,
    "panoptic category": dict(_CATEGORY, isthing=_INTEGER),
    "image": dict(id=_INTEGER_OR_TEXT, file_name=_TEXT, height=_NUMBER, width=_NUMBER),
    "annotation": dict(_SEGMENT, image_id=_INTEGER_OR_TEXT),
    "annotation of image": dict(image_id=_INTEGER_OR_TEXT, file_name=_TEXT, segments_info=_LIST),
    "segment": _SEGMENT,
}
# Characters of compressed run lengths hold 5 bits from the lowest on, and whether more follow.
_FIRST_CHARACTER, _LONGEST_RUN = 48, 7


def read_annotations(path: str, backend_args: dict | None = None) -> dict:
    """The contents of a COCO file; InvalidValue if there is no object of JSON in it.

    Args:
        path: the file.
        backend_args: as for mmengine's ``fileio``.
    """
    try:
        content = json.loads(get(path, backend_args=backend_args))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidValue(f"the annotation file {path} cannot be read: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"the annotation file {path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidValue(f"{path} is not in COCO's format: it holds no object with 'images'")
    return content


def check_annotations(
    content: Mapping,
    path: str,
    classes: Sequence[str] | None = None,
    *,
    panoptic: bool = False,
    masks: bool = False,
    annotated: bool = True,
    evaluated: bool = False,
) -> None:
    """Check all that mmdet and pycocotools rely on in a COCO file.

    Args:
        content: of the file, from :func:`read_annotations`.
        path: of the file, for what an error says.
        classes: names that have to be among the categories, if panoptic in their order; None if
            they are not known.
        panoptic: whether its annotations are panoptic segments.
        masks: whether every object of the classes needs a mask.
        annotated: whether there have to be annotations; a test set has none.
        evaluated: whether predictions are compared with it, which needs more than training.

    Raises:
        InvalidValue: what is wrong, with the ids of the image and of the annotation.
    """
    for key in ("categories", "images", "annotations"):
        if key not in content and (annotated or key != "annotations"):
            raise InvalidValue(f"{path} has no {key!r}: it is not in COCO's format")
    categories, images = content["categories"], content["images"]
    annotations = content.get("annotations", [])

    _check_records("panoptic category" if panoptic else "category", categories, path)
    if classes is not None:
        _check_classes(classes, [category["name"] for category in categories], panoptic, path)
    _check_records("image", images, path)
    for image in images:
        _check_size(image, path)
    sizes = {image["id"]: (int(image["height"]), int(image["width"])) for image in images}

    chosen = {c["id"] for c in categories if classes is None or c["name"] in classes}
    if panoptic:
        _check_segments(annotations, sizes, chosen, path)
        return
    _check_records("annotation", annotations, path)
    known = {category["id"] for category in categories}
    for annotation in annotations:
        size = sizes.get(annotation["image_id"])
        needs_mask = masks and annotation["category_id"] in chosen
        wrong = _wrong_object(annotation, size, known) or _wrong_mask(annotation, size, needs_mask)
        if evaluated and "iscrowd" not in annotation:
            wrong = "has no 'iscrowd', which COCO's evaluation needs"
        if evaluated and annotation["id"] == 0:
            wrong = "cannot be evaluated: COCO's evaluation takes the id 0 for 'not found'"
        if wrong:
            raise InvalidValue(f"{_name('annotation', annotation)} in {path} {wrong}")


def _check_records(kind: str, records: Any, path: str) -> None:
    """Every record has the keys of its kind, and an id of its own."""
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise InvalidValue(f"the records of each {kind} in {path} must be a list of objects")
    keys = _KEYS[kind]
    identity, seen = next(iter(keys)), set()
    for number, record in enumerate(records):
        for key, (types, accepted) in keys.items():
            if key not in record:
                raise InvalidValue(f"{_name(kind, record, number)} in {path} has no {key!r}")
            if not isinstance(record[key], types):
                raise InvalidValue(
                    f"{key!r} of {_name(kind, record, number)} in {path} must be {accepted}, "
                    f"got {_short(record[key])}"
                )
        if record[identity] in seen:
            raise InvalidValue(f"{_name(kind, record)} is more than once in {path}")
        seen.add(record[identity])


def _name(kind: str, record: Mapping, number: int | None = None) -> str:
    """What a record is called: ``annotation 5 of image 3``; its number if it has no id."""
    identity = next(iter(_KEYS[kind]))
    name = f"{kind} {_short(record[identity])}" if identity in record else f"{kind} number {number}"
    of_image = kind == "annotation" and "image_id" in record
    return f"{name} of image {_short(record['image_id'])}" if of_image else name


def _check_classes(classes: Any, names: list[str], in_order: bool, path: str) -> None:
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise InvalidValue(f"classes of metainfo must be a list of names, got {classes!r}")
    missing = [name for name in classes if name not in names]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InvalidValue(
            f"class {missing[0]!r}{more} of metainfo is not among the categories of {path}"
            f"{did_you_mean(missing[0], names)}: set metainfo.classes to names that are there"
        )
    found = [name for name in names if name in classes]
    if len({*found}) < len(found) or len(found) < len(classes):
        raise InvalidValue(
            f"classes of metainfo and the categories of {path} must have different names, "
            f"got {_short(list(classes))} and {_short(found)}"
        )
    # mmdet numbers the labels in the order of the file.
    if in_order and found != list(classes):
        raise InvalidValue(
            f"classes of metainfo must be in the order of the categories of {path}, {_short(found)}"
        )


def _check_size(image: Mapping, path: str) -> None:
    size = [image["height"], image["width"]]
    sound = all(side == side // 1 > 0 for side in size)
    if not sound or size[0] * size[1] > MAX_PIXELS:
        raise InvalidValue(
            f"image {image['id']!r} in {path} is {size[0]}x{size[1]} (height x width): both "
            f"must be integers above 0, and at most {MAX_PIXELS:,} pixels together"
        )


def _check_segments(
    annotations: list[dict],
    sizes: Mapping[Any, tuple[int, int]],
    known: Collection[int],
    path: str,
) -> None:
    """Check the annotations of the panoptic format: one an image, with all of its segments."""
    _check_records("annotation of image", annotations, path)
    for annotation in annotations:
        image = annotation["image_id"]
        if image not in sizes:
            raise InvalidValue(f"{path} has an annotation of image {image!r}, which is not in it")
        place = f"image {image!r} in {path}"
        _check_records("segment", annotation["segments_info"], place)
        for segment in annotation["segments_info"]:
            wrong = _wrong_object(segment, sizes[image], known)
            if segment["id"] == VOID:
                wrong = f"cannot be: the id {VOID} stands for void"
            if wrong:
                raise InvalidValue(f"segment {segment['id']} of {place} {wrong}")


def _wrong_object(
    annotation: Mapping, size: tuple[int, int] | None, known: Collection[int]
) -> str | None:
    """What is wrong with an object besides its mask: its image, category, box and area."""
    if size is None:
        return "is of an image that is not among the images of the file"
    category = annotation["category_id"]
    if category not in known:
        return f"is of category {category}, which is not among the known {_short(sorted(known))}"
    box, area = annotation["bbox"], annotation["area"]
    if not _are_numbers([area]) or area < 0:
        return f"must have an 'area' that is a finite number of at least 0, got {area}"
    if len(box) != 4 or not _are_numbers(box) or min(box[2:]) < 0:
        return (
            "must have a 'bbox' of four finite numbers, of which width and height are at least 0, "
            f"got {_short(box)}"
        )
    left, top, width, height = box
    if not _near([left, top, left + width, top + height], size):
        return f"has a box far outside of its image of {_size(size)}: {box}"
    if annotation.get("iscrowd", 0) not in (0, 1):
        return f"must have an 'iscrowd' of 0 or 1, got {_short(annotation['iscrowd'])}"
    return None


def _wrong_mask(annotation: Mapping, size: tuple[int, int], needed: bool) -> str | None:
    mask = annotation.get("segmentation")
    if not mask or mask == [[]]:
        if needed and not annotation.get("ignore"):
            return "has no mask: its 'segmentation' is missing or empty"
        return None
    if isinstance(mask, dict):
        runs = mask.get("counts")
        runs = _decompress(runs) if isinstance(runs, str) else runs
        if mask.get("size") != list(size) or not _are_runs(runs, size[0] * size[1]):
            return (
                f"must have run lengths, of which the 'size' is its image's, {list(size)}, and "
                f"the 'counts' add up to its {size[0] * size[1]} pixels, got {_short(mask)}"
            )
        return None
    if not isinstance(mask, list):
        return f"must have polygons or run lengths as 'segmentation', got {_short(mask)}"
    for polygon in mask:
        if not polygon or not _are_numbers(polygon):
            return f"must have polygons of finite numbers x, y, x, y, ..., got {_short(polygon)}"
        if not _near(polygon, size):
            return f"has a polygon far outside of its image of {_size(size)}: {_short(polygon)}"
    # mmdet passes over smaller parts of an object.
    if not any(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in mask):
        return f"has no polygon of at least three points, x and y of each: {_short(mask)}"
    return None


def _are_runs(runs: Any, pixels: int) -> bool:
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        return False
    return sum(runs) == pixels


def _decompress(text: str) -> list[int] | None:
    """Run lengths from COCO's characters, as ``rleFrString`` of pycocotools reads them.

    None if a character is none of these or a number is not complete, where that reads on in
    memory which is not the text's.
    """
    runs: list[int] = []
    value = length = 0
    for character in text:
        code = ord(character) - _FIRST_CHARACTER
        if not 0 <= code < 64 or length == _LONGEST_RUN:
            return None
        value |= (code & 31) << 5 * length
        length += 1
        if code & 32:
            continue
        # The highest bit of the last character is the sign.
        if code & 16:
            value -= 1 << 5 * length
        # From the fourth on a number is the difference to the one before the last.
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = length = 0
    return runs if runs and length == 0 else None


def _are_numbers(values: Any) -> bool:
    """Whether it is a list of finite numbers; their sum says so in one pass without Python."""
    try:
        return isinstance(values, list) and math.isfinite(sum(values))
    except (TypeError, OverflowError):
        return False


def _near(coordinates: list, size: tuple[int, int]) -> bool:
    """Whether pycocotools can take them, and they may be meant: a whole image to each side."""
    side = max(size)
    return -side <= min(coordinates) and max(coordinates) <= 2 * side


def _size(size: Iterable[int]) -> str:
    return "{}x{} (height x width)".format(*size)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
