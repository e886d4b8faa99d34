"""One image of the data set and everything that is known about it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .classes import CATEGORY_ID, THINGS
from .landscape import Canvas, draw_landscape
from .outlines import OUTLINES, Outline
from .stream import Stream
from .textures import (
    Color,
    Texture,
    checker,
    coverage,
    dots,
    grain,
    hsv,
    mix,
    plain,
    smoothstep,
    stripes,
)

FARTHEST, NEAREST = 4400.0, 900.0
"""Depth of the objects in mm: each gets a slice of its own between the two."""

LIGHT = (-0.6, -0.8)
"""Direction towards the light in the image plane: from the upper left."""

STYLES: dict[str, tuple[float, tuple[Texture, ...]]] = {
    "disk": (0.99, (plain, dots, plain, checker)),
    "ring": (0.08, (plain, stripes)),
    "star": (0.14, (plain, grain)),
    "bar": (0.62, (plain, stripes)),
    "triangle": (0.40, (stripes, plain, checker)),
    "cross": (0.50, (plain, grain)),
    "crescent": (0.75, (plain, dots)),
    "flower": (0.88, (plain, grain, dots)),
}
"""Hue (a fraction of the circle) and textures that a class is mostly seen with."""

CROWDABLE = ("disk", "star", "triangle", "flower")


@dataclass
class Instance:
    """A object, or a group of objects of one class, with the pixels where it is seen."""

    category_id: int
    is_crowd: bool
    mask: np.ndarray
    """(H, W), bool: visible pixels only."""


@dataclass
class Matte:
    """The nearest object as a matting problem.

    image = alpha * foreground + (1 - alpha) * background
    """

    alpha: np.ndarray
    """(H, W), uint8, 255 is opaque."""
    foreground: np.ndarray
    background: np.ndarray
    """(H, W, 3), uint8, RGB."""
    trimap: np.ndarray
    """(H, W), uint8: 255 foreground, 0 background, 128 to be found out."""


@dataclass
class Scene:
    """An image with its ground truth."""

    image: np.ndarray
    """(H, W, 3), uint8, RGB."""
    semantic: np.ndarray
    """(H, W), uint8: category id, 0 where there is no label."""
    instances: list[Instance]
    """From the farthest to the nearest."""
    depth: np.ndarray
    """(H, W), uint16, mm."""
    matte: Matte | None
    """None in an image without objects."""


@dataclass
class _Paint:
    color: Color
    second: Color
    texture: Texture
    period: float
    strength: float


@dataclass
class _Shape:
    outline: Outline
    x: float
    y: float
    turn: tuple[float, float]
    paint: _Paint


@dataclass
class _Thing:
    name: str
    shapes: list[_Shape]
    """Several for a crowd."""


@dataclass
class _Patch:
    """A shape on the part of the image that it touches."""

    rows: slice
    columns: slice
    distance: np.ndarray
    color: np.ndarray
    relief: np.ndarray
    """How far the surface bulges towards the viewer, from 0 to 1."""


def draw_scene(seed: int, split: int, index: int, height: int, width: int) -> Scene:
    """Draw image `index` of a split.

    Args:
        seed: non-negative seed of the data set.
        split: number of the split: images of different splits differ.
        index: number of the image, from 0.
        height, width: size in pixels.
    """
    stream = Stream(seed, split, index)
    canvas = draw_landscape(stream, height, width)
    things = _choose_things(stream, height, width)

    owner = np.full((height, width), -1, np.int16)
    whole_areas = []
    matte = None
    step = (FARTHEST - NEAREST) / max(len(things), 1)
    for order, thing in enumerate(things):
        is_nearest = order == len(things) - 1
        softness = _softness(stream, thing) if is_nearest else 1.0
        seen = np.zeros((height, width), bool)
        for shape in thing.shapes:
            patch = _render(stream, shape, height, width)
            if patch is None:
                continue
            _cast_shadow(canvas, patch, shape)
            alpha = coverage(patch.distance, softness)
            part = (patch.rows, patch.columns)
            if is_nearest:
                matte, mask = _composite_nearest(canvas, patch, shape, alpha)
            else:
                canvas.color[part] = mix(canvas.color[part], patch.color, alpha)
                mask = alpha >= 0.5
            near = FARTHEST - step * (order + 0.1 + 0.8 * patch.relief)
            canvas.depth[part][mask] = near[mask]
            canvas.category[part][mask] = CATEGORY_ID[thing.name]
            seen[part] |= mask
        owner[seen] = order
        whole_areas.append(int(np.count_nonzero(seen)))

    instances = []
    for order, thing in enumerate(things):
        mask = owner == order
        area = int(np.count_nonzero(mask))
        # a sliver that nobody could name stays without a label
        if area < max(9, 0.15 * whole_areas[order]):
            canvas.category[mask] = 0
            continue
        instances.append(Instance(CATEGORY_ID[thing.name], len(thing.shapes) > 1, mask))
    image = _to_bytes(canvas.color) if matte is None else _blend(matte)
    depth = np.floor(canvas.depth + 0.5).astype(np.uint16)
    return Scene(image, canvas.category, instances, depth, matte)


def _choose_things(stream: Stream, height: int, width: int) -> list[_Thing]:
    """Objects from the farthest to the nearest; none in one image of fifty."""
    if stream.chance(0.02):
        return []
    count = stream.integer(4, 9)
    side = min(height, width)
    crowd_at = stream.integer(0, count // 2) if stream.chance(0.1) else -1
    things = []
    centers: list[tuple[float, float, float]] = []
    for order in range(count):
        name = stream.pick(CROWDABLE if order == crowd_at else THINGS)
        nearness = order / count
        radius = side * stream.uniform(0.085, 0.185) * (0.8 + 0.5 * nearness)
        x, y = _place(stream, centers, radius, height, width)
        centers.append((x, y, radius))
        if order == crowd_at:
            things.append(_Thing(name, _crowd(stream, name, x, y, side)))
        else:
            things.append(_Thing(name, [_shape(stream, name, x, y, radius, side)]))
    return things


def _place(
    stream: Stream,
    centers: list[tuple[float, float, float]],
    radius: float,
    height: int,
    width: int,
) -> tuple[float, float]:
    """The best of a few random places, half of them beside a farther object; few hide one whole."""
    best, best_gap = (0.5 * width, 0.5 * height), -np.inf
    for _ in range(6):
        x = width * stream.uniform(0.04, 0.96)
        y = height * stream.uniform(0.06, 0.94)
        if centers and stream.chance(0.5):
            beside_x, beside_y, beside_radius = stream.pick(centers)
            cos, sin = stream.direction()
            away = stream.uniform(0.4, 1.0) * (radius + beside_radius)
            x = min(max(beside_x + away * cos, 0.0), float(width))
            y = min(max(beside_y + away * sin, 0.0), float(height))
        gap = min(
            (((x - cx) ** 2 + (y - cy) ** 2) ** 0.5 - 0.4 * (radius + r) for cx, cy, r in centers),
            default=0.0,
        )
        if gap >= 0.0:
            return x, y
        if gap > best_gap:
            best, best_gap = (x, y), gap
    return best


def _crowd(stream: Stream, name: str, x: float, y: float, side: int) -> list[_Shape]:
    shapes = []
    for _ in range(stream.integer(7, 12)):
        away = side * 0.2 * stream.uniform(0.0, 1.0) ** 0.5
        cos, sin = stream.direction()
        radius = side * stream.uniform(0.04, 0.06)
        shapes.append(
            _shape(stream, name, x + 1.4 * away * cos, y + 0.7 * away * sin, radius, side)
        )
    return shapes


def _shape(stream: Stream, name: str, x: float, y: float, radius: float, side: int) -> _Shape:
    line = stream.uniform(2.0, 4.0) * max(1.0, side / 320.0)
    outline = OUTLINES[name](stream, radius, line)
    return _Shape(outline, x, y, stream.direction(), _paint(stream, name, radius))


def _paint(stream: Stream, name: str, radius: float) -> _Paint:
    hue, textures = STYLES[name]
    hue = hue + stream.uniform(-0.06, 0.06) if stream.chance(0.85) else stream.uniform(0.0, 1.0)
    saturation, value = stream.uniform(0.6, 0.9), stream.uniform(0.75, 1.0)
    second = hsv(hue + stream.uniform(-0.05, 0.05), 0.45 * saturation, min(1.0, 1.15 * value))
    if stream.chance(0.4):
        second = hsv(hue, saturation, 0.55 * value)
    return _Paint(
        color=hsv(hue, saturation, value),
        second=second,
        texture=stream.pick(textures),
        period=max(3.5, radius * stream.uniform(0.3, 0.55)),
        strength=stream.uniform(0.7, 1.0),
    )


def _softness(stream: Stream, thing: _Thing) -> float:
    """Width in pixels of the nearest object's edge: it is out of focus now and then."""
    blur = stream.uniform(2.0, 7.0) if stream.chance(0.5) else 1.0
    # a wider edge than this would leave a thin shape transparent in its middle
    return max(1.0, min(blur, thing.shapes[0].outline.thickness))


def _render(stream: Stream, shape: _Shape, height: int, width: int) -> _Patch | None:
    """The shape's distance, color and relief around it; None if it lies outside the image."""
    outline = shape.outline
    margin = outline.reach + 6.0 + 0.5 * _shadow_blur(outline)
    top, bottom = max(0, int(shape.y - margin)), min(height, int(shape.y + margin) + 1)
    left, right = max(0, int(shape.x - margin)), min(width, int(shape.x + margin) + 1)
    if bottom - top < 2 or right - left < 2:
        return None
    x = (np.arange(left, right, dtype=np.float32) + 0.5 - shape.x)[None]
    y = (np.arange(top, bottom, dtype=np.float32) + 0.5 - shape.y)[:, None]
    cos, sin = shape.turn
    u, v = cos * x + sin * y, cos * y - sin * x
    distance = outline.distance(u, v)

    paint = shape.paint
    pattern = paint.texture(stream, u, v, paint.period)
    color = mix(paint.color, paint.second, paint.strength * pattern)
    bevel = max(1.5, min(0.6 * outline.thickness, 0.03 * height))
    relief = smoothstep(-distance / (2.0 * bevel))
    slope_y, slope_x = np.gradient(distance)
    edge = np.clip(1.0 + distance / bevel, 0.0, 1.0)
    lit = 0.38 * edge * (slope_x * LIGHT[0] + slope_y * LIGHT[1])
    lit += 0.12 * (x * LIGHT[0] + y * LIGHT[1]) / outline.reach
    color = np.clip(color * (1.0 + lit)[..., None] + 0.25 * np.maximum(lit, 0.0)[..., None], 0, 1)
    return _Patch(slice(top, bottom), slice(left, right), distance, color, relief)


def _shadow_blur(outline: Outline) -> float:
    return max(2.0, min(8.0, 0.35 * outline.reach))


def _cast_shadow(canvas: Canvas, patch: _Patch, shape: _Shape) -> None:
    blur = _shadow_blur(shape.outline)
    shift = max(1, round(0.5 * blur))
    height, width = patch.distance.shape
    if height <= shift or width <= shift:
        return
    # the shape's own distance, moved away from the light
    distance = patch.distance[: height - shift, : width - shift]
    shade = 1.0 - 0.5 * smoothstep(0.5 - distance / blur)
    region = canvas.color[patch.rows, patch.columns][shift:, shift:]
    region *= shade[..., None]


def _composite_nearest(
    canvas: Canvas, patch: _Patch, shape: _Shape, alpha: np.ndarray
) -> tuple[Matte, np.ndarray]:
    """The matte of the nearest object, and its mask within the patch."""
    part = (patch.rows, patch.columns)
    whole = np.zeros(canvas.depth.shape, np.uint8)
    whole[part] = np.floor(alpha * 255.0 + 0.5).astype(np.uint8)
    foreground = np.empty_like(canvas.color)
    foreground[:] = shape.paint.color
    foreground[part] = patch.color
    matte = Matte(whole, _to_bytes(foreground), _to_bytes(canvas.color), _trimap(whole))
    return matte, whole[part] >= 128


def _trimap(alpha: np.ndarray) -> np.ndarray:
    unknown = ((alpha > 0) & (alpha < 255)).astype(np.uint8)
    unknown = cv2.dilate(unknown, np.ones((5, 5), np.uint8))
    return np.where(unknown, 128, np.where(alpha == 255, 255, 0)).astype(np.uint8)


def _blend(matte: Matte) -> np.ndarray:
    """The image in whole numbers, so that the matting equation holds exactly."""
    alpha = matte.alpha.astype(np.uint32)[..., None]
    mixed = alpha * matte.foreground + (255 - alpha) * matte.background
    return ((mixed + 127) // 255).astype(np.uint8)


def _to_bytes(color: np.ndarray) -> np.ndarray:
    return np.floor(np.clip(color, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
