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
