"""Colors of feature maps."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from tools.analysis.sheets.colors import direction_color, draw_wheel, stretch


def test_each_channel_has_its_own_range():
    values = np.array([[[1.0, -3.0, 7.0], [2.0, 5.0, 7.0]], [[3.0, 1.0, 7.0], [1.5, -3.0, 7.0]]])
    expected = [[[0, 0, 0], [0.5, 1, 0]], [[1, 0.5, 0], [0.25, 0, 0]]]
    assert np.array_equal(stretch(values), expected)


def test_the_tails_of_a_channel_are_alike():
    """Of 101 values the 1st percentile is the second, the 99th the last but one."""
    values = np.array([*range(100), 1e6])
    shuffled = np.random.default_rng(0).permutation(values).reshape(101, 1, 1)
    expected = np.clip((shuffled - 1) / 98, 0, 1)
    assert np.allclose(stretch(shuffled, 1), expected)
    both = np.concatenate((shuffled, -shuffled), axis=2)
    assert np.allclose(stretch(both, 1), np.concatenate((expected, 1 - expected), axis=2))


def test_a_channel_of_few_other_values_has_its_whole_range():
    values = np.zeros((20, 20, 2))
    values[3, 4] = 8, 0
    values[5, 6] = 2, 0
    assert np.array_equal(stretch(values, 1), values / 8)


@pytest.mark.parametrize(
    ("move", "color"),
    [
        ((1, 0), (1, 0, 0)),
        ((-1, 0), (0, 1, 1)),
        ((-0.5, 3**0.5 / 2), (0, 1, 0)),
        ((-0.5, -(3**0.5) / 2), (0, 0, 1)),
    ],
)
def test_hue_is_direction_and_saturation_strength(move, color):
    move = np.array(move, float)
    assert direction_color(move, np.array(1.0)) == pytest.approx(color, abs=1e-6)
    white = np.ones(3)
    assert direction_color(move, np.array(0.0)) == pytest.approx(white)
    half = (np.array(color) + white) / 2
    assert direction_color(move, np.array(0.5)) == pytest.approx(half, abs=1e-6)


def test_the_wheel_tells_the_length():
    figure, axes = plt.subplots()
    draw_wheel(axes, 0.336)
    (wheel,) = axes.child_axes
    assert [text.get_text() for text in wheel.texts] == ["0.34"]
    drawn = wheel.get_images()[0].get_array()
    assert np.allclose(drawn[50, 100], (1, 0, 0))  # to the right
    assert np.allclose(drawn[100, 50], direction_color(np.array((0.0, 1)), np.array(1.0)))
    plt.close(figure)
