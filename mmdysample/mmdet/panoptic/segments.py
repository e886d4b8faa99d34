"""Segments of COCO's panoptic format: their ids in PNG files, their records in a JSON file.

A pixel's colour is its segment's id, R + 256 G + 65536 B; id 0 is void (panopticapi: ``rgb2id``,
``VOID``). https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import mmcv
import numpy as np
from mmengine.fileio import get

from mmdysample.errors import InvalidValue

VOID = 0


def rgb_to_id(colors: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3), uint8, RGB -> ids of segments (H, W), int32."""
    red, green, blue = np.moveaxis(colors.astype(np.int32), -1, 0)
    return red + (green << 8) + (blue << 16)


def id_to_rgb(ids: np.ndarray) -> np.ndarray:
    """Ids of segments (H, W), from 0 to 2**24 - 1 -> colours (H, W, 3), uint8, RGB."""
    ids = np.asarray(ids)
    return np.stack([ids & 255, (ids >> 8) & 255, (ids >> 16) & 255], axis=-1).astype(np.uint8)


def read_segments(
    path: str, size: tuple[int, int], image: str, backend_args: dict | None = None
) -> np.ndarray:
    """Ids of segments (H, W), int32, from a PNG file.

    Args:
        path: the file.
        size: height and width of the picture that it is of.
        image: that picture, for what an error says.
        backend_args: as for mmengine's ``fileio``.

    Raises:
        ValueError: the file is missing, cannot be decoded, or is not of ``size``.
    """
    try:
        content = get(path, backend_args=backend_args)
    except FileNotFoundError as error:
        raise InvalidValue(f"the panoptic segments {path} of image {image} do not exist") from error
    # In BGR: to convert what could not be decoded fails in words that name no file.
    colors = mmcv.imfrombytes(content, flag="color") if content else None
    if colors is None:
        raise InvalidValue(f"{path} cannot be read: it is damaged or in no known format")
    if colors.shape[:2] != tuple(size):
        raise InvalidValue(
            f"the panoptic segments {path} are {colors.shape[0]}x{colors.shape[1]} (height x "
            f"width), but their image {image} is {size[0]}x{size[1]}"
        )
    return rgb_to_id(colors[..., ::-1])


def check_recorded(ids: Iterable[int], recorded: Iterable[int], path: str) -> None:
    """Raise ValueError if one of ``ids``, found in ``path``, is neither void nor ``recorded``."""
    unknown = sorted(set(ids) - set(recorded) - {VOID})
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise InvalidValue(
            f"{path} has pixels of segment {unknown[0]}{more}, which the annotation file does not "
            "list among the segments of this image"
        )


def check_areas(pixels: Mapping[int, int], areas: Mapping[int, float], path: str) -> None:
    """Raise ValueError if a segment has more ``pixels`` in ``path`` than its recorded area."""
    for segment, count in pixels.items():
        if count > areas.get(segment, count):
            raise InvalidValue(
                f"segment {segment} has {count} pixels in {path}, but an area of {areas[segment]} "
                "in the annotation file"
            )


def match_categories(
    categories: Sequence[Mapping], classes: Sequence[str], ann_file: str
) -> list[Mapping]:
    """The category of each label: those of an annotation file whose names are among ``classes``.

    As mmdet does, labels follow the order of the file, so the classes must be in that order too.

    Raises:
        ValueError: a class is not in the file, the order is another, or a category does not say
            whether it is a thing.
    """
    for category in categories:
        if "name" not in category:
            raise InvalidValue(f"a category of {ann_file} has no 'name': {dict(category)}")
    names = [category["name"] for category in categories]
    twice = [name for name in classes if names.count(name) > 1]
    if twice:
        raise InvalidValue(f"{ann_file} has several categories of the name {twice[0]!r}")
    for name in classes:
        if name not in names:
            raise InvalidValue(
                f"class {name!r} of metainfo is not among the categories of {ann_file}"
            )
    matched = [category for category in categories if category["name"] in set(classes)]
    for category, name in zip(matched, classes, strict=True):
        if category["name"] != name:
            raise InvalidValue(
                "classes of metainfo must be in the order of the categories of "
                f"{ann_file}: {name!r} stands where that has {category['name']!r}"
            )
        if "isthing" not in category:
            raise InvalidValue(f"category {name!r} of {ann_file} has no 'isthing'")
    return matched


def check_segment(
    segment: Mapping, known: Iterable[int], ann_file: str, image_id: int, needed: Sequence[str]
) -> None:
    """Raise ValueError if a segment's record lacks a key, or its category is not ``known``."""
    for key in ("id", "category_id", *needed):
        if key not in segment:
            raise InvalidValue(
                f"a segment of image {image_id} in {ann_file} has no {key!r}: {dict(segment)}"
            )
    if segment["id"] == VOID:
        raise InvalidValue(
            f"a segment of image {image_id} in {ann_file} has the id {VOID}, which stands for void"
        )
    if segment["category_id"] not in known:
        raise InvalidValue(
            f"segment {segment['id']} of image {image_id} in {ann_file} is of category "
            f"{segment['category_id']}, which is none of the classes of metainfo"
        )
