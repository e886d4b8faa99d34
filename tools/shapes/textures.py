"""Textures: float32 arrays in [0, 1] over pixel coordinates, and colors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .stream import Stream

Color = tuple[float, float, float]


def smoothstep(t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def coverage(distance: np.ndarray, width: float = 1.0) -> np.ndarray:
    """How much of a pixel lies inside an edge at a signed distance in pixels (negative: inside)."""
    return np.clip(0.5 - distance / width, 0.0, 1.0)


def hsv(hue: float, saturation: float, value: float) -> Color:
    """RGB in [0, 1]; the hue is a fraction of the circle and may lie outside [0, 1)."""

    def channel(shift: float) -> float:
        k = (shift + hue * 6.0) % 6.0
        return value * (1.0 - saturation * max(0.0, min(k, 4.0 - k, 1.0)))

    return channel(5.0), channel(3.0), channel(1.0)


def mix(first: np.ndarray | Color, second: np.ndarray | Color, amount: np.ndarray) -> np.ndarray:
    """Colors (H, W, 3) between `first` and `second`; `amount` is (H, W)."""
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return first + (second - first) * amount[..., None]


def value_noise(
    stream: Stream, x: np.ndarray, y: np.ndarray, cell_x: float, cell_y: float
) -> np.ndarray:
    """Smoothly interpolated random values, one a cell; x is (W,), y is (H,), the result (H, W)."""
    x, y = (x - x.min()) / cell_x, (y - y.min()) / cell_y
    left, top = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    grid = stream.grid(int(top.max()) + 2, int(left.max()) + 2)
    along_x = smoothstep(x - left)
    along_y = smoothstep(y - top)[:, None]
    rows = grid[:, left] + (grid[:, left + 1] - grid[:, left]) * along_x
    return rows[top] + (rows[top + 1] - rows[top]) * along_y


def fractal_noise(
    stream: Stream, x: np.ndarray, y: np.ndarray, cell_x: float, cell_y: float, octaves: int = 3
) -> np.ndarray:
    """A sum of value noises, each twice as fine and half as strong as the one before."""
    total = np.zeros((len(y), len(x)), np.float32)
    weight = 0.0
    for octave in range(octaves):
        scale = 0.5**octave
        total += scale * value_noise(stream, x, y, max(cell_x * scale, 1.0), max(cell_y * scale, 1))
        weight += scale
    return total / weight


def _wave(t: np.ndarray, period: float) -> np.ndarray:
    """Square wave of `period` pixels with edges one pixel soft."""
    phase = t / period
    triangle = np.abs(2.0 * (phase - np.floor(phase)) - 1.0)
    return np.clip((triangle - 0.5) * period * 0.5 + 0.5, 0.0, 1.0)


def plain(stream: Stream, u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    return np.zeros_like(u)


def stripes(stream: Stream, u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    return _wave(u, period)


def checker(stream: Stream, u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    across, along = _wave(u, period), _wave(v, period)
    return across + along - 2.0 * across * along


def dots(stream: Stream, u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    cell_u, cell_v = u / period, v / period
    off_u = (cell_u - np.floor(cell_u) - 0.5) * period
    off_v = (cell_v - np.floor(cell_v) - 0.5) * period
    return coverage(np.sqrt(off_u * off_u + off_v * off_v) - 0.3 * period)


def grain(stream: Stream, u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    height, width = u.shape
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    return smoothstep(1.6 * fractal_noise(stream, x, y, period, period) - 0.3)


Texture = Callable[[Stream, np.ndarray, np.ndarray, float], np.ndarray]
"""(stream, u, v, period in pixels) -> amount of the second color; u, v are (H, W) in pixels."""
