"""Time what `swap_upsampling` adds to a model: calls of F.interpolate that lead to an upsampler.

    python tools/benchmark/redirected_calls.py --threads 1 --out results
    python tools/benchmark/redirected_calls.py --modes eager compiled

Each model is compared with its twin in which `Nearest` or `Bilinear`, the same interpolation,
stands for every call, so that what differs is the redirection alone. The two run in turn, after
their results have been found equal. 'ratio' is the swapped model's time over the plain one's, the
percentiles of pairs of runs; 'added' is the median of the pairs' differences, divided by the calls.

    one-call        a forward that is one call, of a map so small that the call is most of its time
    top-down        FPN's top-down path: three calls and additions, 256 channels, image 640x640
    segformer-head  projections of four maps, three calls, a fusion, 256 channels, image 256x256
    whole-network   one forward that runs 50 layers of normalized convolutions, and two calls, so
                    that all of their operations pass through the redirection
    module          an nn.Upsample between two convolutions, which is replaced, not redirected
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import report
import torch
import torch.nn.functional as F
from measure import DisagreementError, Measurement, seconds
from run import positive, threads
from torch import Tensor, nn

from mmdysample import Upsampler, swap_upsampling
from mmdysample.engine.errors import ArgumentParser, doing, run_tool

OUT_FILE = "redirected_calls.csv"
LEAST_SECONDS = 0.005
"""Of a timed run: fast models are called several times in it."""
TABLE = {
    "model": "model",
    "mode": "mode",
    "calls": "calls",
    "plain_p50_us": "plain, us",
    "swapped_p50_us": "swapped, us",
    "ratio_p50": "ratio",
    "ratio_p20": "p20",
    "ratio_p80": "p80",
    "added_us_per_call": "added, us",
}
"""Columns that are printed, and their headings."""


class OneCall(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.interpolate(x, scale_factor=2, mode="nearest"))


class TopDown(nn.Module):
    def forward(self, *maps: Tensor) -> list[Tensor]:
        results = [*maps]
        for i in range(len(maps) - 1, 0, -1):
            size = maps[i - 1].shape[2:]
            results[i - 1] = maps[i - 1] + F.interpolate(results[i], size=size, mode="nearest")
        return results


class SegformerHead(nn.Module):
    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.fusion = nn.Conv2d(len(in_channels) * channels, channels, 1)

    def forward(self, *maps: Tensor) -> Tensor:
        size = maps[0].shape[2:]
        projected = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        projected[1:] = [
            F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in projected[1:]
        ]
        return self.fusion(torch.cat(projected, dim=1)).relu()


class WholeNetwork(nn.Module):
    def __init__(self, depth: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, stride=4, padding=1)
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(depth)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(depth))

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(x + norm(conv(x)))
        for _ in range(2):
            x = F.relu(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
        return x


def module_site() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(256, 256, 1), nn.Upsample(scale_factor=2, mode="nearest"), nn.ReLU()
    )


def features(images: Tensor, channels: Sequence[int], strides: Sequence[int]) -> list[Tensor]:
    """Maps as a backbone makes them, of the images' own values."""
    gray = images.mean(1, keepdim=True)
    return [
        gray[..., ::stride, ::stride].repeat(1, c, 1, 1)
        for c, stride in zip(channels, strides, strict=True)
    ]


class Subject(NamedTuple):
    """What is swapped: how it is built, what it is given, and what stands for its calls."""

    build: Callable[[], nn.Module]
    inputs: Callable[[Tensor], list[Tensor]]
    image: int
    upsampler: str


STRIDES = (4, 8, 16, 32)
SUBJECTS = {
    "one-call": Subject(OneCall, lambda x: features(x, [16], [1]), 8, "Nearest"),
    "top-down": Subject(
        TopDown, partial(features, channels=[256] * 4, strides=STRIDES), 640, "Nearest"
    ),
    "segformer-head": Subject(
        partial(SegformerHead, (64, 128, 320, 512), 256),
        partial(features, channels=(64, 128, 320, 512), strides=STRIDES),
        256,
        "Bilinear",
    ),
    "whole-network": Subject(partial(WholeNetwork, 50, 32), lambda x: [x], 64, "Bilinear"),
    "module": Subject(module_site, lambda x: features(x, [256], [8]), 320, "Nearest"),
}
MODES = ("eager", "compiled")


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n\n")
    parser = ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"{', '.join(SUBJECTS)} (all)")
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=MODES,
        default=["eager"],
        help="(eager); compiled is torch.compile(fullgraph=True), which needs a C++ compiler",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(cpu)")
    parser.add_argument("--repeats", type=positive, default=100, help="timed runs of each (100)")
    parser.add_argument("--threads", type=threads, help="of PyTorch; default: its own choice")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"write {OUT_FILE} there")
    args = parser.parse_args(arguments)
    unknown = [name for name in args.models if name not in SUBJECTS]
    if unknown:
        parser.error(f"unknown model {unknown[0]!r}; accepted are {', '.join(SUBJECTS)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no CUDA GPU here")
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    if args.out:
        report.prepare_directory(args.out, OUT_FILE)
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = []
    for mode in args.modes:
        for name in args.models or SUBJECTS:
            with doing(f"measuring {name}, {mode}"), torch.no_grad():
                rows.append(measure(name, mode, args.device, args.repeats))
            print(f"{name}, {mode}", file=sys.stderr)
    print(report.place_line(rows[0]), end="\n\n")
    print(report.align([list(TABLE.values()), *([row[key] for key in TABLE] for row in rows)]))
    if args.out:
        report.write(args.out / OUT_FILE, rows)


def measure(name: str, mode: str, device: str, repeats: int) -> report.Row:
    """A row: times of the plain and the swapped model, and of each pair the ratio.

    Raises:
        DisagreementError: the two do not compute the same.
    """
    subject = SUBJECTS[name]
    plain, swapped = twins(subject, device)
    inputs = subject.inputs(example(subject, device))
    calls = sum(isinstance(module, Upsampler) for module in swapped.modules())
    if mode == "compiled":
        torch.compiler.reset()
        plain, swapped = (torch.compile(model, fullgraph=True) for model in (plain, swapped))
    compare(name, plain(*inputs), swapped(*inputs))
    runs = {"plain": partial(plain, *inputs), "swapped": partial(swapped, *inputs)}
    measured = alternate(runs, repeats, device)
    times = {key: Measurement(0, taken) for key, taken in measured.items()}
    pairs = [*zip(measured["swapped"], measured["plain"], strict=True)]
    ratios = Measurement(0, [one / other for one, other in pairs])
    added = statistics.median(one - other for one, other in pairs)
    return dict(
        model=name,
        mode=mode,
        upsampler=subject.upsampler,
        image=str(subject.image),
        calls=str(calls),
        **{
            f"{key}_p{p}_us": f"{1e6 * measurement.percentile(p):.1f}"
            for key, measurement in times.items()
            for p in report.PERCENTILES
        },
        **{f"ratio_p{p}": f"{ratios.percentile(p):.3f}" for p in report.PERCENTILES},
        added_us_per_call=f"{1e6 * added / calls:.1f}",
        repeats=str(repeats),
        **report.where(device),
    )


def example(subject: Subject, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, subject.image, subject.image, generator=generator).to(device)


def twins(subject: Subject, device: str) -> tuple[nn.Module, nn.Module]:
    """The model as it is, and swapped."""
    torch.manual_seed(0)
    plain = subject.build().to(device).eval()
    swapped = copy.deepcopy(plain)
    swap_upsampling(
        swapped,
        dict(type=subject.upsampler),
        example(subject, device),
        forward=lambda model, images: model(*subject.inputs(images)),
    )
    return plain, swapped


def compare(name: str, expected: object, actual: object) -> None:
    """Raise DisagreementError unless the results are the same."""
    expected, actual = ([x] if isinstance(x, Tensor) else [*x] for x in (expected, actual))
    for one, other in zip(expected, actual, strict=True):
        if not torch.allclose(one, other, rtol=1e-5, atol=1e-5):
            raise DisagreementError(f"{name}: the swapped model computes something else")


def alternate(
    runs: dict[str, Callable[[], object]], repeats: int, device: str
) -> dict[str, list[float]]:
    """Seconds of a call of each, in turn; who begins changes from turn to turn."""
    alone = statistics.median(seconds(runs["plain"], device) for _ in range(5))
    times = max(1, math.ceil(LEAST_SECONDS / alone))

    def several(run: Callable[[], object]) -> None:
        for _ in range(times):
            run()

    taken: dict[str, list[float]] = {key: [] for key in runs}
    order = [*runs]
    for _ in range(repeats):
        for key in order:
            taken[key].append(seconds(partial(several, runs[key]), device) / times)
        order.reverse()
    return taken


if __name__ == "__main__":
    sys.exit(run_tool(main))
