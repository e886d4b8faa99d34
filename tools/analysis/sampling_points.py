"""Draw where the DySample upsamplers of a trained model sample, over an image.

    python tools/analysis/sampling_points.py CONFIG CHECKPOINT IMAGE --out points.png

works for any mmdet or mmseg model with DySample in it. A point drawn at a place means: there the
upsampler reads the feature map for one pixel of its result.
"""

from __future__ import annotations

import argparse
import sys
from typing import NamedTuple

import cv2
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from sheets.colors import direction_color, draw_wheel
from sheets.stages import choose_stage, pixels_per_cell, run_stages
from torch import Tensor

from mmdysample import DySample
from mmdysample.engine.config import load_config
from mmdysample.engine.errors import ArgumentParser, UserError, run_tool
from mmdysample.engine.options import HELP, CfgOptions
from mmdysample.inference import check_figure_path, load_input, load_model

SUBPIXEL_COLORS = ("#ff3860", "#ffdd57", "#23d160", "#3298ff")


class Points(NamedTuple):
    """Positions as (x, y) in pixels of the feature map: (c, r) is the center of column c, row r.

    Both arrays are (groups, H, W, s, s, 2), clamped to the outermost pixel centers as the sampling
    does it.
    """

    start: np.ndarray
    """At zero offset."""
    end: np.ndarray
    """Where the upsampler reads."""

    @property
    def move(self) -> np.ndarray:
        return self.end - self.start

    @property
    def variation(self) -> np.ndarray:
        """(groups, H, W): how far points move otherwise than they do on average.

        A movement that is the same all over only shifts the feature map.
        """
        otherwise = self.move - self.move.mean(axis=(1, 2), keepdims=True)
        return np.linalg.norm(otherwise, axis=-1).mean(axis=(3, 4))


def parse_args() -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n\n")
    parser = ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file, of mmdet or mmseg")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("image", help="image file; it goes through the config's test pipeline")
    parser.add_argument("--trimap", help="trimap file of the image, for matting models")
    parser.add_argument("--out", help="figure to write (.png, .pdf, .svg, ...)")
    parser.add_argument("--list", action="store_true", help="list the model's stages instead")
    parser.add_argument("--stage", help="name of a stage; default: the finest, of these the last")
    parser.add_argument(
        "--group", type=int, help="channel group, from 0; default: the one that varies most"
    )
    parser.add_argument(
        "--at",
        type=float,
        nargs=2,
        metavar=("X", "Y"),
        help="pixel of the image to zoom in on; default: where they move most variously",
    )
    parser.add_argument(
        "--cells",
        type=int,
        default=8,
        help="pixels of the feature map across the zoom (%(default)s)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=CfgOptions,
        metavar="KEY=VALUE",
        help=f"settings that replace those of the config; {HELP}",
    )
    args = parser.parse_args()
    if args.list == (args.out is not None):
        parser.error("either --out FILE or --list is needed")
    if args.cells < 1:
        parser.error(f"--cells must be 1 or more, got {args.cells}")
    return args


@torch.no_grad()
def sampling_points(module: DySample, x: Tensor) -> Points:
    """Where ``module`` samples the first feature map of ``x``, (B, C, H, W)."""
    s, g = module.scale_factor, module.groups
    height, width = x.shape[2:]
    rows, columns = np.mgrid[:height, :width]
    centers = np.stack((columns, rows), axis=-1)[None, :, :, None, None]

    def positions(offset: Tensor) -> np.ndarray:
        # (2*g*s*s, H, W) -> (g, H, W, i, j, 2)
        offset = offset.double().cpu().reshape(2, g, s, s, height, width)
        points = centers + offset.permute(1, 4, 5, 2, 3, 0).numpy()
        return np.clip(points, 0, (width - 1, height - 1))

    start = positions(module.init_pos[0].expand(-1, height, width))
    end = positions(module.sampling_offset(x)[0])
    return Points(start, end)


def choose_group(points: Points, group: int | None) -> int:
    groups = len(points.start)
    if group is None:
        return int(points.variation.mean(axis=(1, 2)).argmax())
    if not 0 <= group < groups:
        raise UserError(f"--group {group}: the stage has {groups} groups, 0 to {groups - 1}")
    return group


def choose_window(
    points: Points, cells: int, at: tuple[float, float] | None, stride: int
) -> tuple[int, int, int, int]:
    """First column, first row, columns and rows of the zoom.

    Around ``at``, a pixel of the image, else where the points' movement varies most.
    """
    height, width = points.start.shape[1:3]
    rows, columns = min(cells, height), min(cells, width)
    if at is None:
        variation = points.variation.mean(axis=0)
        sums = cv2.filter2D(
            variation, -1, np.ones((rows, columns)), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT
        )
        sums = sums[: height - rows + 1, : width - columns + 1]
        row, column = np.unravel_index(sums.argmax(), sums.shape)
        return int(column), int(row), columns, rows
    column = round(at[0] / stride - columns / 2)
    row = round(at[1] / stride - rows / 2)
    column = min(max(column, 0), width - columns)
    return column, min(max(row, 0), height - rows), columns, rows


def in_image(positions: np.ndarray, stride: int) -> np.ndarray:
    """Pixels of the feature map -> pixels of the image as ``imshow`` counts them."""
    return (positions + 0.5) * stride - 0.5


def draw(
    image: np.ndarray,
    title: str,
    points: Points,
    stride: int,
    group: int,
    window: tuple[int, int, int, int],
) -> plt.Figure:
    """The image, which way its points move, and a zoom with every point.

    Args:
        image: (H, W, 3), uint8, RGB: what the model saw, without padding.
        stride: pixels of the image a pixel of the feature map.
        window: first column, first row, columns and rows of the zoom.
    """
    figure = plt.figure(figsize=(12.6, 8.4), dpi=110, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2.05), wspace=0.02)
    whole, field = left.subplots(2, 1)
    zoom = right.subplots()

    whole.imshow(image, interpolation="bicubic")
    whole.set_title("the image and the zoom", fontsize=10)
    draw_field(field, image, points, stride, group)
    column, row, columns, rows = window
    for axes in (whole, field):
        corner = in_image(np.array((column - 0.5, row - 0.5)), stride)
        for color, width in (("black", 3.5), ("white", 1.8)):
            box = Rectangle(corner, columns * stride, rows * stride)
            box.set(fill=False, edgecolor=color, linewidth=width)
            axes.add_patch(box)
        axes.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))
    draw_zoom(zoom, image, points, stride, group, window)
    for axes in (whole, field, zoom):
        axes.set_xticks([])
        axes.set_yticks([])
    legend(right, points.start.shape[-2])
    figure.suptitle(title, fontsize=12)
    return figure


def draw_field(axes: Axes, image: np.ndarray, points: Points, stride: int, group: int) -> None:
    """Color of a pixel of the result: which way its point moved; strength: how far."""
    move = points.move[group]
    height, width, s = move.shape[:3]
    move = move.transpose(0, 2, 1, 3, 4).reshape(height * s, width * s, 2)
    length = np.linalg.norm(move, axis=-1)
    longest = max(length.max(), 1e-9)
    color = direction_color(move, length / longest)
    extent = (-0.5, width * stride - 0.5, height * stride - 0.5, -0.5)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) / 255
    axes.imshow(0.55 + 0.45 * gray, cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
    axes.imshow(color, extent=extent, alpha=(length / longest) ** 0.6, interpolation="nearest")
    axes.set_title("which way points move (color), how far (strength)", fontsize=10)

    draw_wheel(axes, longest)


def draw_zoom(
    axes: Axes,
    image: np.ndarray,
    points: Points,
    stride: int,
    group: int,
    window: tuple[int, int, int, int],
) -> None:
    column, row, columns, rows = window
    part = (group, slice(row, row + rows), slice(column, column + columns))
    start, end = in_image(points.start[part], stride), in_image(points.end[part], stride)
    s = start.shape[2]

    axes.imshow(image, interpolation="bicubic")
    left, top = in_image(np.array((column - 0.5, row - 0.5)), stride)
    right, bottom = left + columns * stride, top + rows * stride
    for x in np.linspace(left, right, columns + 1):
        axes.axvline(x, color="white", linewidth=1.0, alpha=0.8)
    for y in np.linspace(top, bottom, rows + 1):
        axes.axhline(y, color="white", linewidth=1.0, alpha=0.8)

    size = 470 / max(columns, rows) / s
    outline = [withStroke(linewidth=3.2, foreground="black")]
    for index, color in enumerate(subpixel_colors(s)):
        i, j = divmod(index, s)
        from_, to = start[:, :, i, j].reshape(-1, 2), end[:, :, i, j].reshape(-1, 2)
        moves = LineCollection(np.stack((from_, to), axis=1), colors=color, linewidths=1.8)
        moves.set(path_effects=outline, zorder=2)
        axes.add_collection(moves)
        axes.scatter(*from_.T, s=0.5 * size, facecolors="none", edgecolors="black", zorder=3)
        axes.scatter(*to.T, s=size, color=color, edgecolors="black", linewidths=0.8, zorder=4)
    axes.set(xlim=(left, right), ylim=(bottom, top))


def subpixel_colors(scale_factor: int) -> list[str] | list[np.ndarray]:
    """A color for each of the pixels that come out of one."""
    count = scale_factor**2
    if count <= len(SUBPIXEL_COLORS):
        return list(SUBPIXEL_COLORS[:count])
    return [hsv_to_rgb((index / count, 0.75, 1.0)) for index in range(count)]


def legend(figure: SubFigure, scale_factor: int) -> None:
    def dot(color, size: int, label: str) -> Line2D:
        settings = dict(marker="o", linestyle="", markeredgecolor="black")
        return Line2D([], [], markerfacecolor=color, markersize=size, label=label, **settings)

    handles = [
        Line2D([], [], color="lightgray", linewidth=3, label="pixels of the feature map"),
        dot("none", 5, "start of a point (bilinear)"),
    ]
    corners = ("top left", "top right", "bottom left", "bottom right")
    if scale_factor == 2:
        for color, corner in zip(SUBPIXEL_COLORS, corners, strict=True):
            handles.append(dot(color, 9, f"{corner} sub-pixel, as sampled"))
    else:
        handles.append(dot("white", 9, f"{scale_factor**2} sub-pixels, as sampled"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options, ("model", "test_dataloader"))
    if not args.list:
        check_figure_path(args.out, cfg)
    data = load_input(cfg, args.image, args.trimap)
    model = load_model(cfg, args.checkpoint, args.device)
    image, padded, stages = run_stages(model, data, DySample, f"the model of {args.config}")
    if args.list:
        for stage in stages:
            height, width = stage.size
            print(f"{stage.name}  {height} x {width}  {stage.module.groups} groups")
        return

    stage = choose_stage(stages, args.stage)
    stride = pixels_per_cell(padded, stage.size)
    points = sampling_points(stage.module, stage.x)
    # cells that hold nothing but padding are not of the image
    rows, columns = (-(-side // stride) for side in image.shape[:2])
    points = Points(*(array[:, :rows, :columns] for array in points))
    height, width = image.shape[:2]
    if args.at is not None and not (0 <= args.at[0] < width and 0 <= args.at[1] < height):
        x, y = args.at
        raise UserError(
            f"--at {x:g} {y:g} is outside the image, which is {width} x {height} pixels"
        )
    group = choose_group(points, args.group)
    window = choose_window(points, args.cells, args.at, stride)

    s = stage.module.scale_factor
    height, width = stage.size
    title = (
        f"DySample {stage.name}: {height} x {width} to {s * height} x {s * width}, "
        f"channel group {group} (0 to {stage.module.groups - 1})"
    )
    figure = draw(image, title, points, stride, group, window)
    figure.savefig(args.out)
    print(args.out)


if __name__ == "__main__":
    sys.exit(run_tool(main))
