"""Signed distances of the outlines against closed forms and counted pixels."""

import math

import numpy as np
import pytest

from tools.shapes.classes import THINGS
from tools.shapes.outlines import OUTLINES
from tools.shapes.stream import Stream

RADIUS, LINE = 40.0, 3.0


def grid(step: float) -> tuple[np.ndarray, np.ndarray]:
    axis = np.arange(-70.0, 70.0, step, dtype=np.float32) + step / 2
    return np.meshgrid(axis, axis)


def area(name: str, step: float = 0.25) -> float:
    outline = OUTLINES[name](Stream(0, 0, 0), RADIUS, LINE)
    return float(np.count_nonzero(outline.distance(*grid(step)) < 0)) * step**2


def test_every_thing_has_an_outline():
    assert set(OUTLINES) == set(THINGS)


@pytest.mark.parametrize("name", THINGS)
@pytest.mark.parametrize("index", range(3))
def test_distance_is_a_distance_near_the_edge(name, index):
    outline = OUTLINES[name](Stream(0, 0, index), RADIUS, LINE)
    u, v = grid(0.5)
    distance = outline.distance(u, v)
    assert distance.dtype == np.float32
    assert np.sqrt(u * u + v * v)[distance < 0].max() <= outline.reach + 1e-3

    slope_v, slope_u = np.gradient(distance, 0.5)
    slope = np.sqrt(slope_u**2 + slope_v**2)[np.abs(distance) < 0.5]
    # 1 but for the ridges at corners, where the nearest edge changes
    assert abs(np.median(slope) - 1.0) < 0.02
    assert np.mean(np.abs(slope - 1.0) < 0.1) > 0.8


@pytest.mark.parametrize("name", THINGS)
def test_narrowest_part_is_not_narrower_than_said(name):
    outline = OUTLINES[name](Stream(0, 0, 1), RADIUS, LINE)
    deepest = -outline.distance(*grid(0.5)).min()
    assert deepest >= min(outline.thickness, RADIUS) - 0.36  # half a diagonal of the grid


def test_areas():
    stream = Stream(0, 0, 0)
    half = RADIUS * stream.uniform(0.18, 0.28)
    assert area("disk") == pytest.approx(math.pi * RADIUS**2, rel=2e-3)
    assert area("bar", 0.125) == pytest.approx(3 * RADIUS * LINE, rel=2e-2)
    assert area("cross") == pytest.approx(8 * RADIUS * half - 4 * half**2, rel=1e-2)


def test_ring_has_a_hole_and_crescent_none():
    u = v = np.zeros((1, 1), np.float32)
    assert OUTLINES["ring"](Stream(0, 0, 0), RADIUS, LINE).distance(u, v) > 0.5 * RADIUS
    assert OUTLINES["disk"](Stream(0, 0, 0), RADIUS, LINE).distance(u, v) == -RADIUS


def test_star_tips_are_sharp():
    outline = OUTLINES["star"](Stream(0, 0, 0), RADIUS, LINE)
    u, v = grid(0.25)
    inside = outline.distance(u, v) < 0
    length = np.sqrt(u * u + v * v)
    # the share of a circle that lies inside shrinks to nothing at the tips
    shares = [
        inside[np.abs(length - radius) < 0.5].mean() for radius in (0.3 * RADIUS, 0.7 * RADIUS, 39)
    ]
    assert shares[0] == 1.0
    assert shares[0] > shares[1] > shares[2]
    assert 0 < shares[2] < 0.05
