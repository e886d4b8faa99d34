"""What the upsamplers of models cost, beside the papers' figures.

    python tools/analysis/complexity.py configs/segformer/*.py configs/faster_rcnn/*_fpn-p6_*.py

prints for each config the parameters and FLOPs that its upsamplers add, the published figures of
the table row that the config reproduces, and the difference: 'equal' if ours rounds to what is
printed. As in the papers, parameters are weights without biases and normalisation, and a
multiply-accumulate is one FLOP. Where a paper counts something else, a note says what, and the
column 'recount' is what comes of counting so. For a fixed interpolation, which adds nothing, the
whole model is counted.
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

# For model_zoo, which this script does not lie beside.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from mmengine.registry import MODELS, DefaultScope
from model_zoo.tables import TABLES
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmdysample import Upsampler
from mmdysample.engine.atomic import check_writable, replacing
from mmdysample.engine.config import load_config
from mmdysample.engine.errors import ArgumentParser, UserError, run_tool
from mmdysample.engine.families import import_family

DETECTION_SIZE = (800, 1344)  # 800x1333, padded to a multiple of 32
UNITS = {"K": 1e3, "M": 1e6}


class Stage(NamedTuple):
    """An upsampler and the size of the map that it was given."""

    upsampler: Upsampler
    height: int
    width: int


class Count(NamedTuple):
    params: float
    flops: float | None


class Published(NamedTuple):
    source: str
    params: str
    gflops: str


class Row(NamedTuple):
    config: str
    upsampler: str
    stages: int
    params: int
    params_all: int
    published_params: str
    params_difference: str
    gflops: str
    published_gflops: str
    gflops_difference: str
    source: str
    recount: str
    note: str


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
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the table here")
    args = parser.parse_args()
    if args.shape and min(args.shape) < 1:
        parser.error(f"--shape must be two integers >= 1, got {args.shape[0]} {args.shape[1]}")
    return args


def main() -> None:
    args = parse_args()
    if args.csv:
        check_writable(args.csv, "--csv")
    published = read_published()
    rows: list[Row] = []
    for done, path in enumerate(args.configs, start=1):
        if sys.stderr.isatty():
            print(f"\r\033[K[{done}/{len(args.configs)}] {path}", end="", file=sys.stderr)
        rows += measure(path, args.shape, published)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    print_table(rows)
    if args.csv:
        write_csv(rows, args.csv)


def measure(path: str, shape: list[int] | None, published: dict[str, list[Published]]) -> list[Row]:
    """The rows of one config: one for each published table that has it, else one."""
    cfg = load_config(path, None, ("model",))
    import_family(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    height, width = shape or cfg.get("crop_size", DETECTION_SIZE)
    stages, idle, model_flops = run(model, height, width)
    if not stages:
        raise UserError(f"{path} has no upsampler of mmdysample in its neck or head")
    first = stages[0].upsampler
    if first.any_size:
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        count = Count(trained, model_flops)
        params_all = sum(p.numel() for p in model.parameters())
    else:
        count = Count(weights(stages), flops(stages))
        params_all = sum(p.numel() for stage in stages for p in stage.upsampler.parameters())

    rows = []
    for figure in published.get(Path(path).stem, [Published("", "", "")]):
        params_difference = difference(count.params, figure.params)
        gflops_difference = difference(count.flops, figure.gflops, 1e9)
        recounted, note = "", ""
        if {params_difference, gflops_difference} - {"", "equal"}:
            recounted, note = recount(stages, count, figure)
        if idle:
            left_out = f"not counted, because its part of the model is not run: {', '.join(idle)}"
            note = f"{note}; {left_out}" if note else left_out
        rows.append(
            Row(
                config=Path(path).stem,
                upsampler=type(first).__name__,
                stages=len(stages),
                params=int(count.params),
                params_all=params_all,
                published_params=figure.params,
                params_difference=params_difference,
                gflops="" if count.flops is None else f"{count.flops / 1e9:.3f}",
                published_gflops=figure.gflops,
                gflops_difference=gflops_difference,
                source=figure.source,
                recount=recounted,
                note=note,
            )
        )
    return rows


def run(model: nn.Module, height: int, width: int) -> tuple[list[Stage], list[str], float | None]:
    """Calls of upsamplers, names of those without any, and the model's FLOPs if all of it is run.

    Of a detector, what comes after the neck is not run; of MaskFormer and Mask2Former, what comes
    after the pixel decoder. Nothing else is computed: there is no memory on the device 'meta'.
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
    image = torch.empty(1, 3, height, width, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
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


def weights(stages: list[Stage]) -> int:
    upsamplers = {stage.upsampler for stage in stages}
    return sum(p.numel() for up in upsamplers for p in up.parameters() if p.dim() > 1)


def flops(stages: list[Stage]) -> int:
    return sum(sum(up.flops(height, width).values()) for up, height, width in stages)


def pixels(stages: list[Stage]) -> int:
    return sum(height * width for _, height, width in stages)


def recount(stages: list[Stage], count: Count, figure: Published) -> tuple[str, str]:
    """What comes of counting as the paper seems to, and what that is."""
    convention = CONVENTIONS.get(type(stages[0].upsampler).__name__)
    if convention is None:
        return "", ""
    theirs, note = convention(stages, count)
    texts = []
    if theirs.params != count.params:
        result = difference(theirs.params, figure.params)
        texts.append(f"{theirs.params:,.0f} params: {result}")
    if theirs.flops != count.flops and figure.gflops:
        result = difference(theirs.flops, figure.gflops, 1e9)
        texts.append(f"{theirs.flops / 1e9:.3f} GFLOPs: {result}")
    if not texts and difference(count.flops, figure.gflops, 1e9) in ("", "equal"):
        note = ""  # it is about FLOPs, and they do not differ
    return ", ".join(texts), note


def count_of_deconv(stages: list[Stage], count: Count) -> tuple[Count, str]:
    return count._replace(flops=count.flops * stages[0].upsampler.scale_factor ** 2), (
        "the paper's FLOPs are those of a kernel applied to every pixel of the result, but a "
        "transposed convolution applies it to every pixel of its input"
    )


def count_of_dysample(stages: list[Stage], count: Count) -> tuple[Count, str]:
    up = stages[0].upsampler
    values = up.scale_factor**2 * up.in_channels * pixels(stages)
    sampling = sum(stage.upsampler.flops(*stage[1:])["sampling"] for stage in stages)
    return count._replace(flops=count.flops - sampling + 9 * values), (
        "the paper's FLOPs fit 9 operations a sampled value, such as three linear interpolations "
        "of two products and a sum each; here they are 4 products"
    )


def count_of_fade(stages: list[Stage], count: Count) -> tuple[Count, str]:
    up = stages[0].upsampler
    gate = up.in_channels * (1 + 2 * up.scale_factor**2) * pixels(stages)
    return count._replace(flops=count.flops + (0 if up.gating else gate)), (
        "the paper's FLOPs fit the count with the gate, which its FADE does not have"
    )


def count_of_indexnet(stages: list[Stage], count: Count) -> tuple[Count, str]:
    return count, "the SAPA paper's figure for the same is 30.65, of which 30.7 is a rounding"


def count_of_sapa(stages: list[Stage], count: Count) -> tuple[Count, str]:
    up = stages[0].upsampler
    if up.variant != "g":
        return count, ""
    one = up.in_channels * up.embedding_dim
    return Count(count.params - one * len(stages), count.flops - one * pixels(stages)), (
        "the paper's Table 1 counts two projections of C x d, its equation has three"
    )


CONVENTIONS: dict[str, Callable[[list[Stage], Count], tuple[Count, str]]] = {
    "Deconv": count_of_deconv,
    "DySample": count_of_dysample,
    "FADE": count_of_fade,
    "IndexNet": count_of_indexnet,
    "SAPA": count_of_sapa,
}


def read_published() -> dict[str, list[Published]]:
    """The published figures by the name of the config that reproduces them."""
    figures: dict[str, list[Published]] = {}
    for table in TABLES:
        for row in table.rows():
            if row.params or row.gflops:
                figure = Published(table.source, row.params, row.gflops)
                figures.setdefault(row.config, []).append(figure)
    return figures


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


def print_table(rows: list[Row]) -> None:
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    shown = [
        row._replace(note=f"[{notes.index(row.note) + 1}]" if row.note else "") for row in rows
    ]
    titles = Row(
        "config",
        "upsampler",
        "stages",
        "params",
        "all params",
        "published",
        "difference",
        "GFLOPs",
        "published",
        "difference",
        "source",
        "recount",
        "note",
    )
    cells = [titles, *([f"{c:,}" if isinstance(c, int) else c for c in row] for row in shown)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = {0, 1, 10, 11, 12}
    for row in cells:
        texts = (
            text.ljust(width) if i in left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(texts).rstrip())
    for i, note in enumerate(notes, start=1):
        print(f"[{i}] {note[0].upper()}{note[1:]}.")


def write_csv(rows: list[Row], path: Path) -> None:
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(run_tool(main))
