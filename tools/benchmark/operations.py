"""What is measured: every primitive and every upsampler, and other ways to compute the same.

An operation is built for a shape; its *ways* work on the same tensors:

ours      the library
torch     the library without its GPU kernels, on a GPU; measure.py switches them off
naive     the operator as a paper writes it, in plain PyTorch (mmdysample/ops/naive.py)
bilinear  F.interpolate on the same map, which no learned upsampler computes: the usual yardstick
"""

from __future__ import annotations

import contextlib
import runpy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdysample import DySample, Upsampler, build_upsampler
from mmdysample.ops import local_similarity, naive, point_sample, reassemble

PRESETS = Path(__file__).resolve().parents[2] / "configs/_base_/upsamplers"
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
NAIVE = {
    "reassemble": naive.reassemble,
    "local_similarity": naive.local_similarity,
    "point_sample": naive.point_sample,
}


class Shape(NamedTuple):
    """A map (B, C, H, W), upsampled s times; windows of K*K where the operation takes a size."""

    batch: int
    channels: int
    height: int
    width: int
    scale_factor: int = 2
    kernel_size: int = 5

    def __str__(self) -> str:
        size = f"{self.batch}x{self.channels}x{self.height}x{self.width}"
        return f"{size} s{self.scale_factor}"


class Place(NamedTuple):
    """Where tensors lie and how. ``rounded_to``: a dtype that values have been rounded to."""

    device: str
    dtype: torch.dtype
    memory_format: str = "contiguous"
    rounded_to: torch.dtype | None = None

    def put(self, x: Tensor) -> Tensor:
        if self.rounded_to is not None:
            x = x.to(self.rounded_to)
        return x.to(self.device, self.dtype).contiguous(memory_format=FORMATS[self.memory_format])


@dataclass
class Work:
    """An operation on tensors.

    Attributes:
        ways: name -> call that returns the result; 'ours' is the first.
        inputs: maps that it must read, which gradients are taken of.
        parameters: weights, which gradients are taken of too.
        flops: of one sample, or None if nothing says how many.
        weights: how many weights without biases and normalisations, as the papers count.
        result_bytes: of what 'ours' returns; set when it is measured.
    """

    ways: dict[str, Callable[[], Tensor]]
    inputs: tuple[Tensor, ...]
    parameters: tuple[Tensor, ...] = ()
    flops: int | None = None
    weights: int = 0
    result_bytes: int = 0


class Operation(NamedTuple):
    """Something to measure. ``make(shape, place)`` makes the tensors, always the same ones."""

    name: str
    make: Callable[[Shape, Place], Work]

    def build(self, shape: Shape, place: Place) -> Work:
        """The work, on a GPU with the way 'torch' too."""
        work = self.make(shape, place)
        if place.device != "cpu" and set(work.ways) != {"ours"}:
            work.ways["torch"] = work.ways["ours"]
        return work


def random(*size: int) -> Tensor:
    return torch.randn(size)


def upsampled(shape: Shape) -> tuple[int, int]:
    return shape.scale_factor * shape.height, shape.scale_factor * shape.width


def build_reassemble(shape: Shape, place: Place) -> Work:
    """Features, and kernels as a softmax gives them."""
    torch.manual_seed(0)
    x = place.put(random(*shape[:4]))
    kernel = place.put(random(shape.batch, shape.kernel_size**2, *upsampled(shape)).softmax(1))
    arguments = (x, kernel, shape.kernel_size, shape.scale_factor)
    ways = dict(ours=partial(reassemble, *arguments), naive=partial(naive.reassemble, *arguments))
    return Work(ways, (x, kernel))


def build_local_similarity(shape: Shape, place: Place) -> Work:
    """Queries and keys with inner products around 1."""
    torch.manual_seed(0)
    query = random(shape.batch, shape.channels, *upsampled(shape)) / shape.channels**0.5
    query, key = place.put(query), place.put(random(*shape[:4]))
    arguments = (query, key, shape.kernel_size, shape.scale_factor)
    ways = dict(
        ours=partial(local_similarity, *arguments),
        naive=partial(naive.local_similarity, *arguments),
    )
    return Work(ways, (query, key))


def build_point_sample(shape: Shape, place: Place) -> Work:
    """Points a quarter of a pixel around where bilinear interpolation has them; four groups."""
    torch.manual_seed(0)
    s, groups = shape.scale_factor, 4
    x = place.put(random(*shape[:4]))
    start = DySample(groups, s, groups=groups).init_pos
    offset = start + 0.25 * random(shape.batch, 2 * groups * s**2, shape.height, shape.width)
    offset = place._replace(dtype=torch.float32).put(offset)  # coordinates always are
    ways = dict(
        ours=lambda: point_sample(x, offset, s, groups),
        naive=lambda: naive.point_sample(x, offset.to(place.dtype), s, groups),
    )
    return Work(ways, (x, offset))


def build_bilinear(shape: Shape, place: Place) -> Work:
    torch.manual_seed(0)
    x = place.put(random(*shape[:4]))
    return Work(dict(ours=partial(interpolate, x, shape.scale_factor)), (x,))


def interpolate(x: Tensor, scale_factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=scale_factor, mode="bilinear", align_corners=False)


def build_preset(upsample_cfg: dict, shape: Shape, place: Place) -> Work:
    """An upsampler of configs/_base_/upsamplers, with a guide of as many channels."""
    torch.manual_seed(0)
    upsampler = build_upsampler(upsample_cfg, shape.channels, shape.scale_factor)
    if isinstance(upsampler, DySample):
        # As after training: points a quarter of a pixel around where they start.
        torch.nn.init.normal_(upsampler.offset.weight, std=upsampler.offset.in_channels**-0.5)
    if place.rounded_to is not None:
        upsampler.to(place.rounded_to)
    upsampler.to(place.device, place.dtype)
    x = place.put(random(*shape[:4]))
    guide = place.put(random(shape.batch, shape.channels, *upsampled(shape)))
    arguments = (x, guide) if upsampler.guided else (x,)

    ways: dict[str, Callable[[], Tensor]] = dict(ours=partial(upsampler, *arguments))
    rival = naive_way(upsampler, *arguments)
    if rival is not None:
        ways["naive"] = rival
    if not upsampler.any_size:
        ways["bilinear"] = partial(interpolate, x, shape.scale_factor)
    return Work(
        ways,
        arguments,
        tuple(upsampler.parameters()),
        count_flops(upsampler, shape),
        sum(p.numel() for p in upsampler.parameters() if p.dim() > 1),
    )


def count_flops(upsampler: Upsampler, shape: Shape) -> int | None:
    """Of one sample; None for a fixed interpolation and a class that does not say."""
    if upsampler.any_size or type(upsampler).flops is Upsampler.flops:
        return None
    return sum(upsampler.flops(shape.height, shape.width).values())


def naive_way(upsampler: Upsampler, *arguments: Tensor) -> Callable[[], Tensor] | None:
    """The same operator as its paper writes it; None if it is a few layers of PyTorch anyway."""
    if isinstance(upsampler, DySample):
        scope = upsampler.scope if upsampler.dyscope else None
        return partial(
            naive.dysample,
            arguments[0],
            upsampler.offset.weight,
            upsampler.offset.bias,
            None if scope is None else scope.weight,
            None if scope is None else scope.bias,
            scale_factor=upsampler.scale_factor,
            groups=upsampler.groups,
            style=upsampler.style,
        )
    module = sys.modules[type(upsampler).__module__]
    if not any(hasattr(module, name) for name in NAIVE):
        return None

    def run() -> Tensor:
        with naive_primitives(module):
            return upsampler(*arguments)

    return run


@contextlib.contextmanager
def naive_primitives(module) -> Iterator[None]:
    """Let a module of the library use the plain formulations of the primitives."""
    ours = {name: getattr(module, name) for name in NAIVE if hasattr(module, name)}
    try:
        for name in ours:
            setattr(module, name, NAIVE[name])
        yield
    finally:
        for name, function in ours.items():
            setattr(module, name, function)


def read_presets() -> dict[str, dict]:
    """Name -> ``upsample_cfg``; these files need no mmengine to be read."""
    paths = sorted(PRESETS.glob("*.py"))
    return {path.stem: runpy.run_path(str(path))["upsample_cfg"] for path in paths}


PRIMITIVES = (
    Operation("point_sample", build_point_sample),
    Operation("reassemble", build_reassemble),
    Operation("local_similarity", build_local_similarity),
)
UPSAMPLERS = tuple(
    Operation(name, partial(build_preset, cfg)) for name, cfg in read_presets().items()
)
OPERATIONS = {operation.name: operation for operation in (*PRIMITIVES, *UPSAMPLERS)}

STAGE = Shape(1, 256, 60, 60)
"""A stage of a feature pyramid, 60x60 -> 120x120."""
FIGURE_8 = Shape(1, 256, 120, 120)
"""What Figure 8 of the DySample paper is measured at, with a guide of 256x240x240."""
EMBEDDING = 32
"""Channels that similarities are taken in: SAPA's d."""


def at(operation: str, shape: Shape) -> Shape:
    """The shape for an operation: similarities are taken in an embedding."""
    return shape._replace(channels=EMBEDDING) if operation == "local_similarity" else shape


def sweeps(operation: str) -> dict[str, list[Shape]]:
    """How cost grows: one extent at a time, from a stage's shape."""
    base = at(operation, STAGE)
    height, width, channels = base.height, base.width, base.channels
    by_name = {
        "size": [base._replace(height=height * n // 2, width=width * n // 2) for n in (1, 2, 4, 8)],
        "channels": [base._replace(channels=channels * n // 4) for n in (1, 2, 4, 8)],
        "scale_factor": [
            base._replace(height=height // 2, width=width // 2, scale_factor=n) for n in (2, 4, 8)
        ],
        "batch": [base._replace(batch=base.batch * n) for n in (1, 2, 4, 8)],
    }
    if operation in ("a2u", "indexnet", "indexnet-m2o"):
        del by_name["scale_factor"]  # they upsample by 2 alone
    return by_name
