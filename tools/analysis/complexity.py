"""What the upsamplers of models cost, beside the papers' figures.

    python tools/analysis/complexity.py configs/segformer/*.py configs/faster_rcnn/*_fpn-p6_*.py

prints for each config the parameters and FLOPs that its upsamplers add, the published figures of
the table row that the config reproduces (tools/model_zoo/published), and the difference: 'equal' if
ours rounds to what is printed. As in the papers, parameters are weights without biases and
normalization, but all of them beside the tables of depth and matting of SAPA and FADE, which count
them so, and a multiply-accumulate is one FLOP; docs/benchmarks.md says where a paper counts
otherwise. For a fixed interpolation, which adds nothing, the whole model is counted.
"""

from __future__ import annotations

import argparse
import copy
import csv
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmdysample import Upsampler
from mmdysample.engine.config import load_config
from mmdysample.engine.errors import ArgumentParser, UserError, doing, run_tool
from mmdysample.engine.families import import_family

PUBLISHED = Path(__file__).resolve().parents[1] / "model_zoo/published"
DETECTION_SIZE = (800, 1344)  # 800x1333, padded to a multiple of 32
# Tables that count biases and normalization of upsamplers, too, and frozen layers of a model.
COUNTS_ALL = ("sapa_table4", "sapa_table5", "fade_readme_matting")
UNITS = {"K": 1e3, "M": 1e6}


class Stage(NamedTuple):
    """An upsampler and the size of the map that it was given."""

    upsampler: Upsampler
    height: int
    width: int


class Published(NamedTuple):
    """As printed; empty where nothing is."""

    source: str
    params: str
    gflops: str


class Row(NamedTuple):
    """A line of the table, and what it needs a note about."""

    config: str
    upsampler: str
    stages: int
    params: int
    published_params: str
    params_difference: str
    gflops: str
    published_gflops: str
    gflops_difference: str
    source: str
    idle: str
    """Upsamplers that are not counted, because their part of the model is not run."""


TITLES = (
    *("config", "upsampler", "stages", "params", "published", "difference"),
    *("GFLOPs", "published", "difference", "table", "not run"),
)


def parse_args() -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n\n")
    parser = ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="mmdet or mmseg config file")
    parser.add_argument(
        "--shape",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="size of the image; by default a segmentor's crop_size, 800 x 1344 for a detector",
    )
    args = parser.parse_args()
    if args.shape and min(args.shape) < 1:
        parser.error(f"--shape must be two integers >= 1, got {args.shape[0]} {args.shape[1]}")
    return args


def main() -> None:
    args = parse_args()
    published = read_published()
    rows = [row for path in args.configs for row in measure(path, args.shape, published)]
    cells = [TITLES, *([f"{c:,}" if isinstance(c, int) else c for c in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def read_published() -> dict[str, list[Published]]:
    """The published figures by the name of the config that reproduces them."""
    figures: dict[str, list[Published]] = {}
    for path in sorted(PUBLISHED.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["params"] or row["gflops"]:
                    figure = Published(path.stem, row["params"], row["gflops"])
                    figures.setdefault(row["config"], []).append(figure)
    return figures


def measure(path: str, shape: list[int] | None, published: dict[str, list[Published]]) -> list[Row]:
    """The rows of one config: one for each published table that has it, else one."""
    cfg = load_config(path, None, ("model",))
    import_family(cfg)
    with (
        doing(f"building the model of {path}"),
        DefaultScope.overwrite_default_scope(cfg.default_scope),
    ):
        model = MODELS.build(cfg.model)
    size = shape or cfg.get("crop_size", DETECTION_SIZE)
    height, width = (size, size) if isinstance(size, int) else size  # of a square its side
    stages, idle, model_flops = run(model, height, width)
    if not stages:
        raise UserError(f"{path} has no upsampler of mmdysample in its neck or head")
    first = stages[0].upsampler
    flops = model_flops
    if not first.any_size:
        flops = sum(sum(up.flops(height, width).values()) for up, height, width in stages)
    rows = []
    for figure in published.get(Path(path).stem, [Published("", "", "")]):
        params = count_parameters(model, stages, everything=figure.source in COUNTS_ALL)
        rows.append(
            Row(
                config=Path(path).stem,
                upsampler=type(first).__name__,
                stages=len(stages),
                params=params,
                published_params=figure.params,
                params_difference=difference(params, figure.params),
                gflops="" if flops is None else f"{flops / 1e9:.3f}",
                published_gflops=figure.gflops,
                gflops_difference=difference(flops, figure.gflops, 1e9),
                source=figure.source,
                idle=", ".join(idle),
            )
        )
    return rows


def count_parameters(model: nn.Module, stages: list[Stage], *, everything: bool) -> int:
    """Parameters of the upsamplers that were called, or of the model if these have none to add.

    Of upsamplers the weights, of a model what is trained; with ``everything`` all parameters.
    """
    upsamplers = {stage.upsampler for stage in stages}
    if stages[0].upsampler.any_size:
        return sum(p.numel() for p in model.parameters() if everything or p.requires_grad)
    parameters = [p for upsampler in upsamplers for p in upsampler.parameters()]
    return sum(p.numel() for p in parameters if everything or p.dim() > 1)


def run(model: nn.Module, height: int, width: int) -> tuple[list[Stage], list[str], float | None]:
    """Calls of upsamplers, names of those without any, and the model's FLOPs if all of it is run.

    Of a detector, what comes after the neck is not run; of MaskFormer and Mask2Former, what comes
    after the pixel decoder; of DepthFormer the neck. Nothing else is computed: there is no memory
    on the device 'meta'.
    """
    stages: list[Stage] = []
    idle: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, Upsampler):
            idle.append(name)
            module.register_forward_pre_hook(recorder(name, stages, idle))
    head = getattr(model, "decode_head", None)
    decoder = copy.deepcopy(getattr(head, "pixel_decoder", None))
    model = model.to("meta").eval()
    first = next(m.in_channels for m in model.backbone.modules() if isinstance(m, nn.Conv2d))
    channels = 4 if first == 4 else 3  # an image with its trimap; CSPDarknet's first layer has 12
    image = torch.empty(1, channels, height, width, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if getattr(getattr(model, "neck", None), "keeps_shapes", False):
            # Its deformable attention looks at values, and takes gigabytes at the images' size.
            head(model.backbone(image))
            return stages, idle, None
        features = model.extract_feat(image)
        if decoder is not None:
            decode(decoder.eval(), features, (height, width))
        elif head is not None:
            head(features)
            return stages, idle, counter.get_total_flops() / 2
    return stages, idle, None


def recorder(name: str, stages: list[Stage], idle: list[str]) -> Callable[..., None]:
    """A hook that takes an upsampler's calls down. Of a copied module, the lists are the same."""

    def record(up: Upsampler, inputs: tuple[torch.Tensor, ...]) -> None:
        stages.append(Stage(up, *inputs[0].shape[2:]))
        if name in idle:
            idle.remove(name)

    return record


def decode(decoder: nn.Module, features: tuple[torch.Tensor, ...], size: tuple[int, int]) -> None:
    """Run a pixel decoder of mmdet, on the CPU: deformable attention looks at values."""
    features = [torch.zeros(feature.shape) for feature in features]
    if "batch_img_metas" in inspect.signature(decoder.forward).parameters:
        decoder(features, [dict(batch_input_shape=size, img_shape=size)])
    else:
        decoder(features)


def difference(ours: float | None, printed: str, unit: float | None = None) -> str:
    """'equal' if ``ours`` rounds to ``printed``, else the difference in its unit."""
    if not printed or ours is None:
        return ""
    suffix = "" if unit else printed[-1]
    number = printed.removesuffix(suffix)
    decimals = len(number.partition(".")[2])
    value = ours / (unit or UNITS[suffix])
    if f"{value:.{decimals}f}" == number.removeprefix("+"):
        return "equal"
    return f"{value - float(number):+.{decimals + 2}f}{suffix}"


if __name__ == "__main__":
    sys.exit(run_tool(main))
