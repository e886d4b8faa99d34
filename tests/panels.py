"""Where the images in a drawing are."""

from __future__ import annotations

import math

import numpy as np

GAP = 8


def panel(drawn: np.ndarray, index: int, height: int, width: int) -> np.ndarray:
    """The image (height, width, 3) number ``index`` of a drawing, as it was before enlarging.

    All images of the drawing are of this size, their captions are narrower, and what is beside them
    is not higher.
    """
    factor = math.ceil(240 / max(height, width))
    left = index * (factor * width + GAP)
    top = len(drawn) - factor * height
    enlarged = drawn[top:, left : left + factor * width]
    image = enlarged[factor // 2 :: factor, factor // 2 :: factor]
    assert image.shape == (height, width, 3)
    return image


def count(drawn: np.ndarray, height: int, width: int) -> float:
    """How many images of a size are side by side; with a fraction where a scale is beside them."""
    factor = math.ceil(240 / max(height, width))
    return (drawn.shape[1] + GAP) / (factor * width + GAP)
