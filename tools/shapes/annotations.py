"""Masks as COCO writes them: boxes, run lengths, and panoptic segments."""

from __future__ import annotations

import numpy as np

from .classes import CATEGORIES
from .scene import Scene

IDS_PER_IMAGE = 100
"""Annotation ids are image_id * this + position: they do not depend on other images."""


def bounding_box(mask: np.ndarray) -> list[int]:
    """[x, y, width, height] of the pixels of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


def run_lengths(mask: np.ndarray) -> dict:
    """COCO's uncompressed RLE: runs down the columns, the first one of zeros."""
    flat = np.concatenate([[False], mask.T.ravel()])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(changes, prepend=0, append=mask.size)
    return {"size": list(mask.shape), "counts": counts.tolist()}


def categories(with_stuff: bool) -> list[dict]:
    """The `categories` of an instance file, or those of a panoptic one: with stuff and colors."""
    records = []
    for category_id, category in enumerate(CATEGORIES, start=1):
        supercategory = "thing" if category.is_thing else "stuff"
        record = dict(id=category_id, name=category.name, supercategory=supercategory)
        if with_stuff:
            record |= dict(isthing=int(category.is_thing), color=list(category.color))
        if category.is_thing or with_stuff:
            records.append(record)
    return records


def instance_records(scene: Scene, image_id: int) -> list[dict]:
    """The `annotations` of one image in an instance file, from the farthest to the nearest."""
    return [
        {
            "id": image_id * IDS_PER_IMAGE + position,
            "image_id": image_id,
            "category_id": instance.category_id,
            "bbox": bounding_box(instance.mask),
            "area": int(np.count_nonzero(instance.mask)),
            "iscrowd": int(instance.is_crowd),
            "segmentation": run_lengths(instance.mask),
        }
        for position, instance in enumerate(scene.instances, start=1)
    ]


def panoptic_segments(scene: Scene) -> tuple[np.ndarray, list[dict]]:
    """The colors (H, W, 3) RGB whose R + 256 G + 65536 B is the segment's id, and its records.

    Ids resemble the category's color, so the file can be looked at. 0 is void.
    """
    in_order = [
        (instance.category_id, instance.is_crowd, instance.mask) for instance in scene.instances
    ]
    for category_id, category in enumerate(CATEGORIES, start=1):
        mask = scene.semantic == category_id
        if not category.is_thing and mask.any():
            in_order.append((category_id, False, mask))

    colors = np.zeros((*scene.semantic.shape, 3), np.uint8)
    records: list[dict] = []
    used: dict[int, int] = {}
    for category_id, is_crowd, mask in in_order:
        times = used[category_id] = used.get(category_id, 0) + 1
        # darker with every further instance, and the last bits tell the category
        red, green, blue = (
            level * (16 - times) // 16 for level in CATEGORIES[category_id - 1].color
        )
        color = (red, green, blue // 16 * 16 + category_id)
        colors[mask] = color
        records.append(
            {
                "id": color[0] + 256 * color[1] + 65536 * color[2],
                "category_id": category_id,
                "bbox": bounding_box(mask),
                "area": int(np.count_nonzero(mask)),
                "iscrowd": int(is_crowd),
            }
        )
    return colors, records
