"""The enlarged part of a sheet."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from tools.analysis.sheets.zoom import Window, draw_frame, show, window_around, window_of_most


@pytest.mark.parametrize(
    ("center", "corner"),
    [((0.5, 0.5), (0.375, 0.375)), ((0.0, 1.0), (0, 0.75)), ((0.2, 0.8), (0.075, 0.675))],
)
def test_around_a_place_as_far_as_the_image_reaches(center, corner):
    window = window_around(*center, 0.25)
    assert (window.left, window.top) == pytest.approx(corner)
    assert window.side == 0.25


@pytest.mark.parametrize("shape", [(12, 20), (7, 5), (64, 64)])
@pytest.mark.parametrize("side", [0.25, 0.4, 0.9])
def test_the_window_with_the_largest_sum(shape, side):
    values = np.random.default_rng(0).random(shape)
    window = window_of_most(values, side)
    h, w = (max(round(length * side), 1) for length in shape)
    sums = {
        (row, column): values[row : row + h, column : column + w].sum()
        for row in range(shape[0] - h + 1)
        for column in range(shape[1] - w + 1)
    }
    row, column = max(sums, key=sums.get)
    expected = (min(column / shape[1], 1 - side), min(row / shape[0], 1 - side))
    assert (window.left, window.top) == pytest.approx(expected)


def test_a_border_is_left_out():
    values = np.zeros((16, 32))
    values[0], values[9, 20] = 100, 1
    assert window_of_most(values, 0.25).top == 0
    window = window_of_most(values, 0.25, rim=1 / 16)
    assert 1 / 16 <= window.top <= 9 / 16 < window.top + 0.25
    assert window.left <= 20 / 32 < window.left + 0.25
    assert window_of_most(values, 0.95, rim=1 / 16).side == 0.95
    far = window_of_most(values[::-1, ::-1], 0.25, rim=1 / 16)
    assert far.top <= 6 / 16 < far.top + 0.25 <= 15 / 16
    values[9, 20], values[15] = 0, 100
    assert window_of_most(values, 0.25, rim=1 / 16).top + 0.25 <= 15 / 16


def test_without_a_difference_it_is_the_center():
    assert window_of_most(np.full((9, 9), 3.0), 0.5) == Window(0.25, 0.25, 0.5)


def test_pixels_are_where_imshow_has_them():
    figure, axes = plt.subplots()
    axes.imshow(np.zeros((20, 40)))
    whole = axes.get_xlim(), axes.get_ylim()
    show(axes, (20, 40))
    assert (axes.get_xlim(), axes.get_ylim()) == whole
    window = Window(0.25, 0.5, 0.25)
    draw_frame(axes, (20, 40), window)
    assert {p.get_bbox().bounds for p in axes.patches} == {(9.5, 9.5, 10, 5)}
    show(axes, (20, 40), window)
    assert (axes.get_xlim(), axes.get_ylim()) == ((9.5, 19.5), (14.5, 9.5))
    plt.close(figure)
