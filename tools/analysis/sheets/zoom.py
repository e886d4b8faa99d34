"""The enlarged part of an image on sheets that compare models."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle


class Window(NamedTuple):
    """A part of an image, of the image's proportions, in fractions of its width and height."""

    left: float
    top: float
    side: float


WHOLE = Window(0, 0, 1)


def window_around(x: float, y: float, side: float) -> Window:
    """The window with (x, y) in its center, as far as the image reaches; all are fractions."""
    left, top = (min(max(place - side / 2, 0), 1 - side) for place in (x, y))
    return Window(left, top, side)


def window_of_most(values: np.ndarray, side: float, rim: float = 0) -> Window:
    """The window with the largest sum of ``values``.

    Args:
        values: (h, w), over the whole image; where all windows are alike the center is chosen.
        side: of the window, a fraction.
        rim: fraction along each border that the window stays out of, if it can.
    """
    if values.max() <= values.min():
        return window_around(0.5, 0.5, side)
    sizes = [max(round(length * side), 1) for length in values.shape]
    rims = [round(length * rim) if side <= 1 - 2 * rim else 0 for length in values.shape]
    sums = cv2.boxFilter(
        values.astype(np.float64),
        -1,
        (sizes[1], sizes[0]),
        anchor=(0, 0),
        normalize=False,
        borderType=cv2.BORDER_CONSTANT,
    )
    first, last = rims, [n - size - r for n, size, r in zip(values.shape, sizes, rims, strict=True)]
    inside = sums[first[0] : last[0] + 1, first[1] : last[1] + 1]
    row, column = np.unravel_index(inside.argmax(), inside.shape)
    height, width = values.shape
    left, top = (column + first[1]) / width, (row + first[0]) / height
    return Window(min(left, 1 - side), min(top, 1 - side), side)


def show(axes: Axes, size: tuple[int, int], window: Window = WHOLE) -> None:
    """Let ``axes`` show a window of an image of ``size``, height and width, without ticks."""
    x, y, width, height = _box(size, window)
    axes.set(xlim=(x, x + width), ylim=(y + height, y), xticks=[], yticks=[])


def draw_frame(axes: Axes, size: tuple[int, int], window: Window) -> None:
    """A frame around the window on an image of ``size``, height and width."""
    x, y, width, height = _box(size, window)
    for color, line_width in (("black", 3), ("white", 1.5)):
        box = Rectangle((x, y), width, height)
        box.set(fill=False, edgecolor=color, linewidth=line_width)
        axes.add_patch(box)


def _box(size: tuple[int, int], window: Window) -> tuple[float, float, float, float]:
    """Left, top, width and height as ``imshow`` counts pixels."""
    height, width = size
    return (
        window.left * width - 0.5,
        window.top * height - 0.5,
        window.side * width,
        window.side * height,
    )
