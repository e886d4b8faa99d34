"""DySample paper, Eq. (1) and (3): bilinear samples at positions given in input pixels."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor


def point_sample(x: Tensor, offset: Tensor, scale_factor: int, groups: int) -> Tensor:
    """Sub-pixel (i, j) of pixel (row, col) reads x at (row, col) plus its own offset.

    Channels of ``offset`` count through the axis (x, y), the group, i and j, the last one fastest.
    """
    s, g = scale_factor, groups
    batch, channels, height, width = x.shape
    images, offsets = x.double().tolist(), offset.double().tolist()
    out = torch.empty(batch, channels, s * height, s * width, dtype=torch.float64)
    pixels = itertools.product(range(batch), range(channels), range(height), range(width))
    for b, c, row, col in pixels:
        group = c * g // channels
        for i, j in itertools.product(range(s), range(s)):
            channel_x = group * s * s + i * s + j
            channel_y = g * s * s + channel_x
            value = bilinear(
                images[b][c],
                row + offsets[b][channel_y][row][col],
                col + offsets[b][channel_x][row][col],
            )
            out[b, c, s * row + i, s * col + j] = value
    return out


def bilinear(image: list[list[float]], y: float, x: float) -> float:
    """``image`` at row ``y`` and column ``x``, clamped to the outermost pixel centres."""
    (top, bottom, down), (left, right, across) = (
        neighbours(y, len(image)),
        neighbours(x, len(image[0])),
    )
    above = (1 - across) * image[top][left] + across * image[top][right]
    below = (1 - across) * image[bottom][left] + across * image[bottom][right]
    return (1 - down) * above + down * below


def neighbours(position: float, length: int) -> tuple[int, int, float]:
    """The pixels before and after ``position``, and how far it is from the first to the second."""
    position = min(max(position, 0.0), length - 1.0)
    before = math.floor(position)
    return before, min(before + 1, length - 1), position - before
