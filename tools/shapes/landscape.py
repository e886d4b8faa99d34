"""The background: sky, hills, water and ground, separated by wavy lines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .classes import CATEGORY_ID
from .stream import Stream
from .textures import Color, checker, coverage, fractal_noise, hsv, mix, smoothstep, value_noise

FAR = 10000.0
NEAR = 4600.0
"""Depth of the background in mm: the sky, and the ground at the lower edge."""


@dataclass
class Canvas:
    """An image while it is drawn; every array has the image's height and width."""

    color: np.ndarray
    """(H, W, 3), RGB in [0, 1], float32."""
    category: np.ndarray
    """(H, W), category id, uint8."""
    depth: np.ndarray
    """(H, W), mm, float32."""


def draw_landscape(stream: Stream, height: int, width: int) -> Canvas:
    x = np.arange(width, dtype=np.float32) + 0.5
    y = np.arange(height, dtype=np.float32) + 0.5
    canvas = Canvas(
        color=np.empty((height, width, 3), np.float32),
        category=np.full((height, width), CATEGORY_ID["sky"], np.uint8),
        depth=np.full((height, width), FAR, np.float32),
    )
    # the light of the day tints everything
    warmth = stream.uniform(0.0, 1.0)
    canvas.color[:] = _sky(stream, x, y, warmth)

    horizon = height * stream.uniform(0.36, 0.62)
    if stream.chance(0.75):
        line = _wavy_line(stream, x, horizon - 0.12 * height, 0.3 * height, 0.5 * width)
        _lay(canvas, y, line, "hills", _hills(stream, x, y, line, warmth), 9500.0, 8500.0)
    lower = stream.pick(("water", "ground", "both"))
    if lower != "ground":
        line = _wavy_line(stream, x, horizon, 0.03 * height, 0.4 * width)
        _lay(canvas, y, line, "water", _water(stream, x, y, horizon, warmth), 8400.0, NEAR)
    if lower != "water":
        top = horizon if lower == "ground" else horizon + 0.5 * (height - horizon)
        line = _wavy_line(stream, x, top, 0.14 * height, 0.6 * width)
        _lay(canvas, y, line, "ground", _ground(stream, x, y, horizon, warmth), 8400.0, NEAR)
    return canvas


def _wavy_line(
    stream: Stream, x: np.ndarray, middle: float, amplitude: float, cell: float
) -> np.ndarray:
    noise = fractal_noise(stream, x, np.zeros(1, np.float32), cell, 1.0, octaves=3)[0]
    return middle + amplitude * (noise - 0.5)


def _lay(
    canvas: Canvas,
    y: np.ndarray,
    line: np.ndarray,
    name: str,
    color: np.ndarray,
    depth_at_line: float,
    depth_below: float,
) -> None:
    """Lay a region over everything below `line`."""
    slope = np.gradient(line)
    distance = (line - y[:, None]) / np.sqrt(1.0 + slope * slope)
    amount = coverage(distance)
    canvas.color = mix(canvas.color, color, amount)
    region = amount >= 0.5
    canvas.category[region] = CATEGORY_ID[name]
    # from the depth at the line to the depth at the image's lower edge
    below = np.clip((y[:, None] - line) / np.maximum(y[-1] - line, 1.0), 0.0, 1.0)
    canvas.depth[region] = (depth_at_line + (depth_below - depth_at_line) * below)[region]


def _sky(stream: Stream, x: np.ndarray, y: np.ndarray, warmth: float) -> np.ndarray:
    hue = stream.uniform(0.54, 0.64)
    top = hsv(hue, stream.uniform(0.45, 0.75), stream.uniform(0.55, 0.9))
    low = hsv(0.56 if warmth < 0.5 else stream.uniform(0.02, 0.11), 0.15 + 0.35 * warmth, 0.97)
    height, width = len(y), len(x)
    fall = smoothstep(y / (0.75 * height))[:, None] + np.zeros((1, width), np.float32)
    color = mix(top, low, fall)
    clouds = fractal_noise(stream, x, y, 0.45 * width, 0.16 * height, octaves=4)
    color = mix(color, (1.0, 0.98, 0.95), 0.8 * smoothstep((clouds - 0.5) * 4.0))
    sun_x, sun_y = width * stream.uniform(0.1, 0.9), height * stream.uniform(0.05, 0.4)
    du, dv = (x - sun_x)[None], (y - sun_y)[:, None]
    glow = 1.0 / (1.0 + (du * du + dv * dv) / (0.18 * height) ** 2)
    return mix(color, (1.0, 0.93, 0.75), 0.7 * glow)


def _hills(
    stream: Stream, x: np.ndarray, y: np.ndarray, line: np.ndarray, warmth: float
) -> np.ndarray:
    hue = stream.uniform(0.22, 0.38) if stream.chance(0.7) else stream.uniform(0.62, 0.75)
    light = hsv(hue, 0.42, 0.62)
    dark = hsv(hue + 0.03, 0.55, 0.36)
    # bands that follow the ridge, roughened
    below = y[:, None] - line
    rough = fractal_noise(stream, x, y, 0.06 * len(x), 0.04 * len(y))
    band = below / (0.07 * len(y)) + 0.6 * rough
    bands = smoothstep(np.abs(2.0 * (band - np.floor(band)) - 1.0))
    color = mix(light, dark, 0.65 * bands + 0.35 * rough)
    haze = np.clip(1.0 - below / (0.45 * len(y)), 0.0, 1.0)
    return mix(color, hsv(0.58 - 0.5 * warmth, 0.2, 0.95), 0.4 * haze)


def _water(
    stream: Stream, x: np.ndarray, y: np.ndarray, horizon: float, warmth: float
) -> np.ndarray:
    hue = stream.uniform(0.5, 0.62)
    far, near = hsv(hue, 0.4, 0.78), hsv(hue + 0.02, 0.8, 0.42)
    nearness = np.clip((y - horizon) / max(len(y) - horizon, 1.0), 0.0, 1.0)
    color = mix(far, near, nearness[:, None] + np.zeros((1, len(x)), np.float32))
    # square root: waves look smaller towards the horizon
    rows = np.sqrt(nearness) * 0.9 * len(y)
    waves = value_noise(stream, x, rows, 0.09 * len(x), 0.022 * len(y))
    crests = smoothstep((waves - 0.6) * 4.0)
    return mix(color, hsv(0.12, 0.25 * warmth, 1.0), 0.45 * crests)


def _ground(
    stream: Stream, x: np.ndarray, y: np.ndarray, horizon: float, warmth: float
) -> np.ndarray:
    first, second = _ground_colors(stream)
    height, width = len(y), len(x)
    rough = fractal_noise(stream, x, y, 0.05 * width, 0.03 * height)
    if stream.chance(0.55):  # tiles in perspective
        below = np.maximum(y - horizon + 0.12 * height, 0.06 * height)[:, None]
        scale = 0.35 * height / below
        center = width * stream.uniform(0.2, 0.8)
        period = 0.16 * height
        u = (x - center)[None] * scale
        v = scale * 0.9 * height + np.zeros_like(u)
        tiles = checker(stream, u, v, period)
        # far tiles are narrower than pixels: fade them to the mean
        sharpness = np.clip(below / (0.3 * height), 0.15, 1.0)
        pattern = 0.5 + (tiles - 0.5) * sharpness
        pattern = 0.8 * pattern + 0.2 * rough
    else:
        pattern = rough
    return mix(mix(first, second, pattern), (1.0, 0.8, 0.5), 0.12 * warmth * np.ones_like(rough))


def _ground_colors(stream: Stream) -> tuple[Color, Color]:
    hue = stream.pick((0.08, 0.1, 0.05, 0.12, 0.95))
    return (
        hsv(hue, stream.uniform(0.2, 0.45), stream.uniform(0.75, 0.92)),
        hsv(hue - 0.02, stream.uniform(0.3, 0.6), stream.uniform(0.4, 0.62)),
    )
