"""Outlines of the objects as signed distances: negative inside, in pixels, exact near the edge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .stream import Stream, unit_vector

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Coordinates (u, v) around the shape's center, in pixels -> signed distance in pixels."""


@dataclass(frozen=True)
class Outline:
    distance: Distance
    reach: float
    """No point inside is further from the center, in pixels."""
    thickness: float
    """Half the width of the narrowest part, in pixels."""


def _length(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sqrt(u * u + v * v)


def _polygon(vertices: Sequence[tuple[float, float]]) -> Distance:
    def distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        squared = np.full_like(u, np.inf)
        inside = np.zeros(u.shape, bool)
        for (ax, ay), (bx, by) in zip(vertices, [*vertices[1:], vertices[0]], strict=True):
            ex, ey = bx - ax, by - ay
            pu, pv = u - ax, v - ay
            along = np.clip((pu * ex + pv * ey) / (ex * ex + ey * ey), 0.0, 1.0)
            du, dv = pu - ex * along, pv - ey * along
            squared = np.minimum(squared, du * du + dv * dv)
            if ey != 0.0:
                inside ^= ((v >= ay) != (v >= by)) & (pu < pv * (ex / ey))
        root = np.sqrt(squared)
        return np.where(inside, -root, root)

    return distance


def _box(u: np.ndarray, v: np.ndarray, half_u: float, half_v: float) -> np.ndarray:
    du, dv = np.abs(u) - half_u, np.abs(v) - half_v
    outside = _length(np.maximum(du, 0.0), np.maximum(dv, 0.0))
    return outside + np.minimum(np.maximum(du, dv), 0.0)


def disk(stream: Stream, radius: float, line: float) -> Outline:
    return Outline(lambda u, v: _length(u, v) - radius, radius, radius)


def ring(stream: Stream, radius: float, line: float) -> Outline:
    half = max(radius * stream.uniform(0.1, 0.22), 0.6 * line)
    middle = radius - half
    return Outline(lambda u, v: np.abs(_length(u, v) - middle) - half, radius, half)


def star(stream: Stream, radius: float, line: float) -> Outline:
    points = stream.integer(5, 7)
    inner = radius * stream.uniform(0.36, 0.46)
    vertices = []
    for corner in range(2 * points):
        x, y = unit_vector(3.141592653589793 * corner / points)
        size = inner if corner % 2 else radius
        vertices.append((size * x, size * y))
    return Outline(_polygon(vertices), radius, 0.6 * inner)


def bar(stream: Stream, radius: float, line: float) -> Outline:
    half_length, half_width = 1.5 * radius, 0.5 * line
    return Outline(
        lambda u, v: _box(u, v, half_length, half_width), half_length + half_width, half_width
    )


def triangle(stream: Stream, radius: float, line: float) -> Outline:
    vertices = []
    for corner in range(3):
        turn = (corner + stream.uniform(-0.12, 0.12)) / 3.0
        x, y = unit_vector(2.0 * 3.141592653589793 * turn)
        vertices.append((radius * x, radius * y))
    return Outline(_polygon(vertices), radius, 0.4 * radius)


def cross(stream: Stream, radius: float, line: float) -> Outline:
    half = radius * stream.uniform(0.18, 0.28)

    def distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.minimum(_box(u, v, radius, half), _box(u, v, half, radius))

    return Outline(distance, radius + half, half)


def crescent(stream: Stream, radius: float, line: float) -> Outline:
    shift = radius * stream.uniform(0.42, 0.58)
    bite = radius * 0.92

    def distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.maximum(_length(u, v) - radius, bite - _length(u - shift, v))

    return Outline(distance, radius, 0.25 * radius)


def flower(stream: Stream, radius: float, line: float) -> Outline:
    depth = stream.uniform(0.2, 0.28)
    middle = radius / (1.0 + depth)

    def distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        length = _length(u, v)
        cosine = u / np.maximum(length, 1e-3)
        square = cosine * cosine
        petals = ((16.0 * square - 20.0) * square + 5.0) * cosine  # cos(5 * angle)
        # the radius changes along the edge: dividing by the length of its gradient makes the
        # difference of radii a distance, close to the edge
        slope = 5.0 * depth * np.sqrt(np.maximum(1.0 - petals * petals, 0.0))
        return (length - middle * (1.0 + depth * petals)) / np.sqrt(1.0 + slope * slope)

    return Outline(distance, radius, middle * (1.0 - depth))


OUTLINES: dict[str, Callable[[Stream, float, float], Outline]] = {
    "disk": disk,
    "ring": ring,
    "star": star,
    "bar": bar,
    "triangle": triangle,
    "cross": cross,
    "crescent": crescent,
    "flower": flower,
}
"""Name of a object -> (stream, radius, line width; both in pixels) -> its outline."""
