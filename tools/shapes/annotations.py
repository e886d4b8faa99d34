"""Masks as COCO writes them: boxes, polygons, run lengths, and panoptic segments."""

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


def trace_outlines(mask: np.ndarray) -> tuple[list[list[int]], list[list[int]]]:
    """Closed outlines of a mask along the edges of its pixels, as flat lists x, y, x, y, ...

    Pixels that touch at a corner only count as separate. Since every vertex is a corner of a pixel,
    filling the outlines gives back exactly the mask; COCO's own polygon filling does so too.

    Returns:
        The outer outlines and those of holes.
    """
    padded = np.pad(mask, 1)
    # unit steps with the inside to their right, y pointing down
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}
    below, above = padded[1:, 1:-1], padded[:-1, 1:-1]
    right, left = padded[1:-1, 1:], padded[1:-1, :-1]
    for edges, shift, step in (
        (below & ~above, (0, 0), (1, 0)),
        (above & ~below, (1, 0), (-1, 0)),
        (left & ~right, (0, 0), (0, 1)),
        (right & ~left, (0, 1), (0, -1)),
    ):
        for y, x in np.argwhere(edges).tolist():
            steps.setdefault((x + shift[0], y + shift[1]), []).append(step)

    outer, holes = [], []
    while steps:
        start = min(steps, key=lambda point: (point[1], point[0]))
        outline = _follow(steps, start)
        (outer if _signed_area(outline) > 0 else holes).append(outline)
    return outer, holes


def _follow(
    steps: dict[tuple[int, int], list[tuple[int, int]]], start: tuple[int, int]
) -> list[int]:
    """Walk once around from `start`, taking the steps out of `steps`; keep the corners."""
    corners: list[int] = []
    point, heading = start, None
    while point in steps:
        choices = steps[point]
        # where two pixels touch at a corner: turn right, staying with the same pixel
        step = choices[0]
        if len(choices) == 2 and heading is not None:
            step = (-heading[1], heading[0])
        choices.remove(step)
        if not choices:
            del steps[point]
        if step != heading:
            corners += point
        point, heading = (point[0] + step[0], point[1] + step[1]), step
        if point == start:
            break
    return corners


def _signed_area(outline: list[int]) -> float:
    """Positive for an outline that runs clockwise as seen, y pointing down."""
    x, y = np.array(outline[0::2]), np.array(outline[1::2])
    return 0.5 * float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def segmentation(mask: np.ndarray, is_crowd: bool) -> list[list[int]] | dict:
    """Polygons; run lengths for a group and for a mask with a hole, which polygons cannot say."""
    if is_crowd:
        return run_lengths(mask)
    outer, holes = trace_outlines(mask)
    return run_lengths(mask) if holes else outer


def categories(things_only: bool) -> list[dict]:
    """The `categories` of an instance file (things) or of a panoptic one (all, with colours)."""
    records = []
    for category_id, category in enumerate(CATEGORIES, start=1):
        record = {
            "id": category_id,
            "name": category.name,
            "supercategory": "thing" if category.is_thing else "stuff",
        }
        if not things_only:
            record |= {"isthing": int(category.is_thing), "color": list(category.color)}
        if category.is_thing or not things_only:
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
            "segmentation": segmentation(instance.mask, instance.is_crowd),
        }
        for position, instance in enumerate(scene.instances, start=1)
    ]


def panoptic_segments(scene: Scene) -> tuple[np.ndarray, list[dict]]:
    """The colours (H, W, 3) RGB whose R + 256 G + 65536 B is the segment's id, and its records.

    Ids resemble the category's colour, so the file can be looked at. 0 is void.
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
