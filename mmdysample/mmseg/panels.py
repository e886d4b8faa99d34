"""Drawings side by side, each below its caption; small ones are enlarged so that these are legible.

All images are (H, W, 3), uint8, RGB.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

LEAST_SIDE = 240
GAP = 8
WHITE, BLACK = 255, (0, 0, 0)
_FONT, _TEXT_SCALE, _TEXT_HEIGHT = cv2.FONT_HERSHEY_SIMPLEX, 0.45, 10
_PLAIN_SIDE, _INDENT = 640, 2


def enlarge(image: np.ndarray) -> np.ndarray:
    """An image, each pixel repeated until its longer side has ``LEAST_SIDE`` pixels or more."""
    factor = -(-LEAST_SIDE // max(image.shape[:2]))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def lay_out(panels: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Images of any sizes in a row on white, ``GAP`` pixels apart, each below its caption.

    Args:
        panels: captions and images. A caption that is wider than its image makes the panel wider.

    Returns:
        The images begin at row ``caption_height(H)``, where H is the height of the highest one.
    """
    height = max(image.shape[0] for _, image in panels)
    top = caption_height(height)
    columns: list[np.ndarray] = []
    for caption, image in panels:
        width = max(image.shape[1], 2 * _INDENT + text_width(caption, height))
        column = np.full((top + height, width, 3), WHITE, np.uint8)
        column[top : top + image.shape[0], : image.shape[1]] = image
        write_text(column, caption, _INDENT, top // 2, height)
        columns += [column, np.full((top + height, GAP, 3), WHITE, np.uint8)]
    return np.concatenate(columns[:-1], axis=1)


def caption_height(height: int) -> int:
    """How many rows the captions take above images of a height."""
    return round(2 * text_height(height))


def text_height(height: int) -> float:
    """The height of a line of text beside images of a height: larger ones are looked at smaller."""
    return _TEXT_HEIGHT * max(1.0, height / _PLAIN_SIDE)


def text_width(text: str, height: int) -> int:
    scale, thickness = _stroke(height)
    return cv2.getTextSize(text, _FONT, scale, thickness)[0][0]


def write_text(image: np.ndarray, text: str, left: int, middle: int, height: int) -> None:
    """Write black text into an image, from column ``left`` on, its middle at row ``middle``."""
    scale, thickness = _stroke(height)
    baseline = middle + cv2.getTextSize(text, _FONT, scale, thickness)[0][1] // 2
    cv2.putText(image, text, (left, baseline), _FONT, scale, BLACK, thickness, cv2.LINE_AA)


def _stroke(height: int) -> tuple[float, int]:
    """OpenCV's scale and thickness of letters."""
    factor = text_height(height) / _TEXT_HEIGHT
    return _TEXT_SCALE * factor, max(1, round(factor))
