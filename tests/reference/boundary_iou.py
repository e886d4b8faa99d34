"""Boundary IoU by its definition: masks of one class, eroded a pixel at a time, in loops."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

IGNORED = 255


def erode(mask: np.ndarray) -> np.ndarray:
    """A pixel stays if the 3x3 square around it lies in the mask."""
    height, width = mask.shape
    out = np.zeros_like(mask)
    for y, x in itertools.product(range(1, height - 1), range(1, width - 1)):
        out[y, x] = mask[y - 1 : y + 2, x - 1 : x + 2].all()
    return out


def band(mask: np.ndarray, ratio: float) -> np.ndarray:
    """The mask without its erosion, which the border of the image also takes part in."""
    height, width = mask.shape
    eroded = np.zeros((height + 2, width + 2), bool)
    eroded[1:-1, 1:-1] = mask
    for _ in range(max(1, round(ratio * float(np.hypot(height, width))))):
        eroded = erode(eroded)
    return mask & ~eroded[1:-1, 1:-1]


def boundary_iou(
    maps: Iterable[tuple[np.ndarray, np.ndarray]], classes: int, ratio: float
) -> list[float]:
    """IoU of each class over (prediction, ground truth), nan for a class that is in none."""
    intersections, unions = np.zeros(classes), np.zeros(classes)
    for pred, label in maps:
        known = label != IGNORED
        for c in range(classes):
            predicted = band((pred == c) & known, ratio)
            true = band((label == c) & known, ratio)
            intersections[c] += (predicted & true).sum()
            unions[c] += (predicted | true).sum()
    return [i / u if u else float("nan") for i, u in zip(intersections, unions, strict=True)]
