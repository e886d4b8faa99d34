"""Colors of feature maps, kernels and offsets."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb


def stretch(values: np.ndarray, tail: float = 0) -> np.ndarray:
    """Each channel of (H, W, C) from its own least to its own largest value, as 0 to 1.

    A channel of one value becomes 0.

    Args:
        tail: percentage of the values of a channel that are 0, and of those that are 1, at least:
            a single value far from all others leaves these distinct. A channel whose values
            between the tails are all one is stretched over its whole range instead.
    """
    low, high = np.percentile(values, (tail, 100 - tail), axis=(0, 1))
    flat = high <= low
    low = np.where(flat, values.min(axis=(0, 1)), low)
    high = np.where(flat, values.max(axis=(0, 1)), high)
    return np.clip((values - low) / np.where(high > low, high - low, 1), 0, 1)


def direction_color(move: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """RGB of vectors (..., 2) as (x, y): hue for direction, saturation for ``strength``."""
    hue = (np.arctan2(move[..., 1], move[..., 0]) / (2 * np.pi)) % 1
    return hsv_to_rgb(np.stack((hue, np.clip(strength, 0, 1), np.ones_like(hue)), axis=-1))


def draw_wheel(axes: Axes, longest: float) -> None:
    """A legend of :func:`direction_color` in the corner: full strength is of length ``longest``."""
    wheel = axes.inset_axes((0.015, 0.015, 0.19, 0.19))
    y, x = np.mgrid[-1:1:101j, -1:1:101j]
    radius = np.hypot(x, y)
    wheel.imshow(direction_color(np.stack((x, y), -1), radius), alpha=(radius <= 1).astype(float))
    wheel.text(50, 50, f"{longest:.2f}", fontsize=7, ha="center", va="center")
    wheel.axis("off")
