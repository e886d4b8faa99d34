"""Nearest and Bilinear, pixel by pixel."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from mmdysample import Bilinear, Nearest
from tests.reference.point_sample import bilinear
from tests.utils import assert_close


def at_centre(image: list[list[float]], row: int, col: int, size: tuple[int, int]) -> float:
    """Where the centre of output pixel (row, col) lies in the input (align_corners=False)."""
    height, width = len(image), len(image[0])
    y = (row + 0.5) * height / size[0] - 0.5
    x = (col + 0.5) * width / size[1] - 0.5
    return bilinear(image, y, x)


def at_corner(image: list[list[float]], row: int, col: int, size: tuple[int, int]) -> float:
    """The pixel that the first corner of output pixel (row, col) lies in."""
    height, width = len(image), len(image[0])
    return image[math.floor(row * height / size[0])][math.floor(col * width / size[1])]


def between_corners(image: list[list[float]], row: int, col: int, size: tuple[int, int]) -> float:
    """Corner pixels stay, those between are spread evenly (align_corners=True)."""
    y = row * (len(image) - 1) / (size[0] - 1)
    x = col * (len(image[0]) - 1) / (size[1] - 1)
    return bilinear(image, y, x)


@pytest.mark.parametrize(
    ("cls", "value"),
    [
        (Bilinear, at_centre),
        (partial(Bilinear, align_corners=True), between_corners),
        (Nearest, at_corner),
    ],
    ids=["bilinear", "bilinear with aligned corners", "nearest"],
)
@pytest.mark.parametrize("size", [(8, 10), (7, 9), (11, 3)], ids=str)
def test_equals_loop(cls, value, size, device):
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, device=device)
    expected = [
        [
            [[value(c, row, col, size) for col in range(size[1])] for row in range(size[0])]
            for c in b
        ]
        for b in x.tolist()
    ]
    assert_close(cls(3)(x, size=size), Tensor(expected).double(), dtype=torch.float32)


@pytest.mark.parametrize("cls", [Bilinear, Nearest])
def test_no_parameters(cls):
    assert not cls(3).state_dict()


def test_align_corners_must_be_a_boolean():
    with pytest.raises(TypeError, match="align_corners must be True or False, got 'yes'"):
        Bilinear(3, align_corners="yes")
