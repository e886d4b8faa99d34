"""Draw what the upsamplers of trained models see, compute and make of one image.

    python tools/analysis/feature_maps.py CONFIG CHECKPOINT [CONFIG CHECKPOINT ...] \\
        --image IMAGE --out sheet.png

draws a row a model: the image, the encoder's map (the guide), the decoder's map, the map that the
upsampler computes (kernels, a gate, indices or offsets), the upsampled map and, for comparison,
bilinear interpolation of the same decoder map. It works for any mmdet or mmseg model with
upsamplers of mmdysample. docs/feature_maps.md says what the columns show.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from sheets.colors import direction_color, draw_wheel, stretch
from sheets.stages import Run, Stage, choose_stage, pixels_per_cell, run_stages
from sheets.zoom import (
    WHOLE,
    Window,
    draw_frame,
    show,
    window_around,
    window_of_most,
)
from torch import Tensor

from mmdysample import Upsampler
from mmdysample.engine.config import load_config
from mmdysample.engine.errors import ArgumentParser, UserError, run_tool
from mmdysample.engine.options import HELP, CfgOptions
from mmdysample.inference import check_figure_path, load_input, load_model

COLUMNS = (
    *("image", "encoder's map (guide)", "decoder's map (x)"),
    *("computed map", "upsampled map", "bilinear of the same x"),
)
CELL = 2.1
"""Width of a cell of the sheet, in inches."""
TAIL = 1
"""Percentage of the values of a computed map at either end that are drawn alike: at the border of
the image single values are often far from all others."""


class Panel(NamedTuple):
    """A map as it is drawn over the image."""

    colors: np.ndarray
    """(h, w, 3), 0 to 1, or (h, w), which is drawn from dark to bright."""
    stride: float
    """Pixels of the image on each axis that one of the map covers."""
    note: str
    longest: float | None = None
    """Of a map of vectors, in pixels of x: at full saturation."""


class Row(NamedTuple):
    """A model's line of the sheet."""

    label: str
    panels: list[Panel | str]
    """One a column; a text where there is no map."""
    edges: np.ndarray
    """Of the decoder's map as it is drawn, (h, w)."""


def kernel_panel(stage: Stage, values: np.ndarray, stride: float) -> Panel:
    groups = getattr(stage.module, "up_group", 1)
    size = round((values.shape[2] / groups) ** 0.5)
    return scalar_panel(values[..., 0], stride, f"kernel, top left of {size}x{size}")


def gate_panel(stage: Stage, values: np.ndarray, stride: float) -> Panel:
    return scalar_panel(values[..., 0], stride, "gate")


def index_panel(stage: Stage, values: np.ndarray, stride: float) -> Panel:
    count = values.shape[2]
    return scalar_panel(values[..., 0], stride, "index" if count == 1 else f"index 0 of {count}")


def scalar_panel(values: np.ndarray, stride: float, what: str) -> Panel:
    """From the 1st percentile, dark, to the 99th, bright; the note tells the whole range."""
    colors = stretch(values[..., None], TAIL)[..., 0]
    return Panel(colors, stride, f"{what}: {values.min():.2g} to {values.max():.2g}")


def offset_panel(stage: Stage, values: np.ndarray, stride: float) -> Panel:
    """Offsets less their mean, of the channel group where these vary most.

    The mean of each of a cell's sub-pixels over the image is taken away, since it only shifts the
    map. Hue is the direction, saturation the length, which is full from the 99th percentile on.
    """
    s = stage.module.scale_factor
    moves = values.reshape(*values.shape[:2], 2, -1).transpose(3, 0, 1, 2).copy()
    for row in range(s):
        for column in range(s):
            part = moves[:, row::s, column::s]
            part -= part.mean(axis=(1, 2), keepdims=True)
    group = int((moves**2).mean(axis=(1, 2, 3)).argmax())
    length = np.linalg.norm(moves[group], axis=-1)
    longest = max(np.percentile(length, 100 - TAIL), 1e-9)
    note = f"offset less its mean, group {group}: up to {length.max():.2g}"
    return Panel(direction_color(moves[group], length / longest), stride, note, longest)


PANELS = {
    "kernel": kernel_panel,
    "gate": gate_panel,
    "index": index_panel,
    "offset": offset_panel,
}


def parse_args() -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n\n")
    parser = ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="CONFIG CHECKPOINT",
        help="a row of the sheet; config file of mmdet or mmseg, and checkpoint file",
    )
    parser.add_argument(
        "--image", required=True, help="image file; it goes through each config's test pipeline"
    )
    parser.add_argument("--trimap", help="trimap file of the image, for matting models")
    parser.add_argument("--out", help="figure to write (.png, .pdf, .svg, ...)")
    parser.add_argument("--list", action="store_true", help="list the models' stages instead")
    parser.add_argument("--names", nargs="+", help="labels of the rows; default: upsamplers' names")
    parser.add_argument(
        "--stage",
        action="append",
        metavar="NAME",
        help="name of a stage; given several times, a row for each; default: a model's finest, of "
        "these the last",
    )
    parser.add_argument(
        "--channels",
        type=int,
        nargs=3,
        metavar=("R", "G", "B"),
        help="channels of a map that are drawn as red, green and blue, from 0; default: 0 1 2",
    )
    parser.add_argument(
        "--map",
        choices=tuple(PANELS),
        help="computed map to draw of the upsamplers that have it; default: a gate before a kernel",
    )
    parser.add_argument(
        "--zoom", type=float, default=4, help="enlargement of the part below; 0: none (%(default)g)"
    )
    parser.add_argument(
        "--at",
        type=float,
        nargs=2,
        metavar=("X", "Y"),
        help="pixel of the first model's image to zoom in on; default: the strongest boundary of "
        "the decoders' maps",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=CfgOptions,
        metavar="KEY=VALUE",
        help=f"settings that replace those of every config; {HELP}",
    )
    args = parser.parse_args()
    if args.list == (args.out is not None):
        parser.error("either --out FILE or --list is needed")
    if len(args.models) % 2:
        parser.error(
            f"models are given as pairs of CONFIG CHECKPOINT, got {len(args.models)} "
            f"{'argument' if len(args.models) == 1 else 'arguments'}: {' '.join(args.models)}"
        )
    args.models = list(zip(args.models[::2], args.models[1::2], strict=True))
    if args.names is not None and len(args.names) != len(args.models):
        parser.error(
            f"--names gives {len(args.names)} labels, there are {len(args.models)} models: "
            "one is needed for each"
        )
    if args.channels and min(args.channels) < 0:
        parser.error(f"--channels count from 0, got {min(args.channels)}")
    if args.zoom != 0 and not 1 < args.zoom <= 64:
        parser.error(f"--zoom must be 0, or above 1 and at most 64, got {args.zoom:g}")
    return args


def computed_map(stage: Stage, wanted: str | None) -> tuple[str, Tensor] | None:
    """Name and map, (C, H, W), of what the upsampler computes; the last of several by default."""
    maps = maps_of(stage)
    if not maps:
        return None
    name = wanted if wanted in maps else list(maps)[-1]
    return name, maps[name][0]


def in_image(values: Tensor, run: Run, stride: float) -> np.ndarray:
    """(C, H, W) -> (H, W, C) of the cells that are of the image, not of its padding."""
    rows, columns = (int(-(-side // stride)) for side in run.image.shape[:2])
    return values[:, :rows, :columns].permute(1, 2, 0).double().cpu().numpy()


def feature_panel(values: Tensor, run: Run, stride: float, channels: list[int] | None) -> Panel:
    """Three channels of (C, H, W) as a color image, each from its least to its largest value.

    By default the first three, or as many as there are, over again.
    """
    count, height, width = values.shape
    if channels is None:
        channels = [number % count for number in range(3)]
    elif max(channels) >= count:
        raise UserError(
            f"--channels {' '.join(map(str, channels))}: a map that is drawn has only the channels "
            f"0 to {count - 1}"
        )
    colors = stretch(in_image(values[channels], run, stride))
    return Panel(colors, stride, f"{count} x {height} x {width}")


def computed_panel(stage: Stage, run: Run, stride: float, wanted: str | None) -> Panel | str:
    """The upsampler's own map, drawn by its kind; a text if it has none."""
    found = computed_map(stage, wanted)
    if found is None:
        return "none is\ncomputed"
    name, values = found
    stride = stride * stage.x.shape[2] / values.shape[1]
    return PANELS[name](stage, in_image(values, run, stride), stride)


def edges(colors: np.ndarray) -> np.ndarray:
    """How much a pixel's color differs from its lower and right neighbor's: (h, w, 3) -> (h, w)."""
    down = np.diff(colors, axis=0, append=colors[-1:])
    right = np.diff(colors, axis=1, append=colors[:, -1:])
    return np.sqrt((down**2 + right**2).sum(axis=2))


@torch.no_grad()
def make_row(
    label: str, run: Run, stage: Stage, channels: list[int] | None, wanted: str | None = None
) -> Row:
    """What is drawn of one stage."""
    stride = pixels_per_cell(run.padded, stage.size)
    fine = pixels_per_cell(run.padded, stage.out.shape[2:])
    scale = stride / fine
    bilinear = F.interpolate(
        stage.x.float(), scale_factor=scale, mode="bilinear", align_corners=False
    )
    guide: Panel | str = "none is given\nto the upsampler"
    if stage.guide is not None:
        guide_stride = pixels_per_cell(run.padded, stage.guide.shape[2:])
        guide = feature_panel(stage.guide[0], run, guide_stride, channels)
    panels = [
        Panel(run.image / 255, 1, f"{run.image.shape[0]} x {run.image.shape[1]}"),
        guide,
        feature_panel(stage.x[0], run, stride, channels),
        computed_panel(stage, run, stride, wanted),
        feature_panel(stage.out[0], run, fine, channels),
        feature_panel(bilinear[0], run, fine, channels),
    ]
    return Row(label, panels, edges(panels[2].colors))


def choose_window(rows: list[Row], zoom: float, at: tuple[float, float] | None) -> Window:
    """Around ``at``, a fraction of the image each, else where the decoders' maps have edges."""
    if at is not None:
        return window_around(*at, 1 / zoom)
    total = np.zeros((128, 128))
    for row in rows:
        found = cv2.resize(row.edges, total.shape, interpolation=cv2.INTER_LINEAR)
        total += found / max(found.mean(), 1e-9)
    # Maps change at the border of an image whatever is in it: convolutions see zeros beyond.
    return window_of_most(total, 1 / zoom, rim=1 / 16)


def draw(rows: list[Row], window: Window | None) -> plt.Figure:
    """The sheet; columns that are empty in every row are left out."""
    kept = [n for n in range(len(COLUMNS)) if any(isinstance(r.panels[n], Panel) for r in rows)]
    lines = [(row, part) for row in rows for part in ([WHOLE, window] if window else [WHOLE])]
    height, width = rows[0].panels[0].colors.shape[:2]
    figure, grid = plt.subplots(
        len(lines),
        len(kept),
        figsize=(
            CELL * len(kept) + 0.5,
            (CELL * height / width) * len(lines) + 0.22 * len(rows) + 0.6,
        ),
        dpi=100,
        squeeze=False,
        layout="constrained",
    )
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    for line, (row, part) in zip(grid, lines, strict=True):
        image = row.panels[0]
        for axes, column in zip(line, kept, strict=True):
            panel = row.panels[column]
            draw_panel(axes, panel, image.colors.shape[:2], part)
            if part is WHOLE and isinstance(panel, Panel):
                axes.set_xlabel(panel.note, fontsize=7, labelpad=2)
                if panel.longest is not None:
                    draw_wheel(axes, panel.longest)
        if part is WHOLE:
            line[0].set_ylabel(row.label, fontsize=11)
            if window:
                draw_frame(line[0], image.colors.shape[:2], window)
        else:
            line[0].set_ylabel(f"zoom x{1 / part.side:g}", fontsize=8)
    for axes, column in zip(grid[0], kept, strict=True):
        axes.set_title(COLUMNS[column], fontsize=11)
    return figure


def draw_panel(axes: Axes, panel: Panel | str, size: tuple[int, int], window: Window) -> None:
    """A map over the field of the image, which is of ``size``, or over a window of it."""
    if isinstance(panel, str):
        axes.set_facecolor("0.93")
        axes.text(0.5, 0.5, panel, transform=axes.transAxes, ha="center", va="center", color="0.4")
        axes.set_aspect("equal")
    else:
        rows, columns = panel.colors.shape[:2]
        extent = (-0.5, columns * panel.stride - 0.5, rows * panel.stride - 0.5, -0.5)
        settings = dict(cmap="magma", vmin=0, vmax=1) if panel.colors.ndim == 2 else {}
        axes.imshow(panel.colors, extent=extent, interpolation="nearest", **settings)
    show(axes, size, window)


def labels(stages: list[Stage], configs: list[str]) -> list[str]:
    """The upsamplers' names; where two are alike, the parts that the configs' names differ in."""
    kinds = [type(stage.module).__name__ for stage in stages]
    parts = [Path(config).stem.split("_") for config in configs]
    if len(set(kinds)) == len(kinds) or len({len(each) for each in parts}) > 1:
        return kinds
    differ = [n for n, each in enumerate(zip(*parts, strict=True)) if len(set(each)) > 1]
    return [
        "_".join(each[n] for n in differ) or kind for each, kind in zip(parts, kinds, strict=True)
    ]


def sheet(args: argparse.Namespace, runs: list[Run]) -> tuple[list[Row], Window | None]:
    """The rows and the window of the zoom that the command line asks for."""
    models = [f"the model of {config}" for config, _ in args.models]
    names = args.names or labels(
        [choose_stage(run.stages, None) for run in runs], [config for config, _ in args.models]
    )
    chosen = [
        (
            run,
            choose_stage(run.stages, stage, model),
            name if not args.stage else f"{name}\n{stage}",
        )
        for run, model, name in zip(runs, models, names, strict=True)
        for stage in args.stage or [None]
    ]
    if args.map and not any(args.map in maps_of(stage) for _, stage, _ in chosen):
        known = sorted({name for _, stage, _ in chosen for name in maps_of(stage)})
        raise UserError(
            f"--map {args.map}: no stage that is drawn computes such a map, but "
            f"{', '.join(known) or 'none at all'}"
        )
    at = None
    if args.at is not None:
        height, width = runs[0].image.shape[:2]
        x, y = args.at
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(
                f"--at {x:g} {y:g} is outside the image, which is {width} x {height} pixels"
            )
        at = ((x + 0.5) / width, (y + 0.5) / height)
    rows = [make_row(name, run, stage, args.channels, args.map) for run, stage, name in chosen]
    return rows, choose_window(rows, args.zoom, at) if args.zoom else None


@torch.no_grad()
def maps_of(stage: Stage) -> dict[str, Tensor]:
    """What the upsampler computes; nothing if it is no `Upsampler`."""
    if not isinstance(stage.module, Upsampler):
        return {}
    return stage.module.intermediate_maps(stage.x, stage.guide)


def describe(stage: Stage) -> str:
    """A line of --list."""
    sizes = (f"{'x'.join(map(str, tensor.shape[1:]))}" for tensor in (stage.x, stage.out))
    guide = (
        "no guide" if stage.guide is None else "guide " + "x".join(map(str, stage.guide.shape[1:]))
    )
    maps = ", ".join(maps_of(stage)) or "no map of its own"
    return f"{stage.name}  {type(stage.module).__name__}  {' to '.join(sizes)}  {guide}  {maps}"


def main() -> None:
    args = parse_args()
    configs = [
        load_config(config, args.cfg_options, ("model", "test_dataloader"))
        for config, _ in args.models
    ]
    if not args.list:
        for cfg in configs:
            check_figure_path(args.out, cfg)
    runs = []
    for cfg, (config, checkpoint) in zip(configs, args.models, strict=True):
        data = load_input(cfg, args.image, args.trimap)
        model = load_model(cfg, checkpoint, args.device)
        runs.append(run_stages(model, data, of=f"the model of {config}"))
    if args.list:
        for run, (config, _) in zip(runs, args.models, strict=True):
            print(config)
            for stage in run.stages:
                print(f"  {describe(stage)}")
        return
    figure = draw(*sheet(args, runs))
    figure.savefig(args.out)
    print(args.out)


if __name__ == "__main__":
    sys.exit(run_tool(main))
