"""What is measured: every primitive and every upsampler, and what it is compared with.

An operation is built for a shape; its implementations compute on the same tensors:

ours      the library
torch     the library without its GPU kernels, on a GPU; measure.py switches them off
naive     the operator as its paper writes it, in plain PyTorch (mmdysample/ops/naive.py)
bilinear  F.interpolate of the same map, which no learned upsampler computes: the usual yardstick
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdysample import A2U, CARAFE, FADE, SAPA, DySample, Upsampler, build_upsampler
from mmdysample.ops import local_similarity, naive, point_sample, reassemble
from mmdysample.upsamplers import a2u, sapa

PRESETS = Path(__file__).resolve().parents[2] / "configs/_base_/upsamplers"
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


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

    @property
    def upsampled(self) -> tuple[int, int]:
        return self.scale_factor * self.height, self.scale_factor * self.width


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
        implementations: name -> call that returns the result; 'ours' is the first.
        inputs: maps that it must read, which gradients are taken of.
        parameters: weights, which gradients are taken of too.
        flops: of one sample, or None if nothing says how many.
        weights: how many weights without biases and normalizations, as the papers count.
        result_bytes: of what 'ours' returns; set when it is measured.
    """

    implementations: dict[str, Callable[[], Tensor]]
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
        """The work, on a GPU with the implementation 'torch' too."""
        torch.manual_seed(0)
        work = self.make(shape, place)
        if place.device != "cpu" and set(work.implementations) != {"ours"}:
            work.implementations["torch"] = work.implementations["ours"]
        return work


def make_reassemble(shape: Shape, place: Place) -> Work:
    """Features, and kernels as a softmax gives them."""
    x = place.put(torch.randn(shape[:4]))
    kernel = torch.randn(shape.batch, shape.kernel_size**2, *shape.upsampled).softmax(1)
    kernel = place.put(kernel)
    arguments = (x, kernel, shape.kernel_size, shape.scale_factor)
    return Work(
        dict(ours=partial(reassemble, *arguments), naive=partial(naive.reassemble, *arguments)),
        (x, kernel),
    )


def make_local_similarity(shape: Shape, place: Place) -> Work:
    """Queries and keys with inner products around 1."""
    query = torch.randn(*shape[:2], *shape.upsampled) / shape.channels**0.5
    query, key = place.put(query), place.put(torch.randn(shape[:4]))
    arguments = (query, key, shape.kernel_size, shape.scale_factor)
    return Work(
        dict(
            ours=partial(local_similarity, *arguments),
            naive=partial(naive.local_similarity, *arguments),
        ),
        (query, key),
    )


def make_point_sample(shape: Shape, place: Place) -> Work:
    """Points a quarter of a pixel around where bilinear interpolation has them; four groups."""
    s, groups = shape.scale_factor, 4
    x = place.put(torch.randn(shape[:4]))
    start = DySample(groups, s, groups=groups).init_pos
    offset = start + 0.25 * torch.randn(shape.batch, 2 * groups * s**2, shape.height, shape.width)
    offset = place._replace(dtype=torch.float32).put(offset)  # coordinates always are
    return Work(
        dict(
            ours=lambda: point_sample(x, offset, s, groups),
            naive=lambda: naive.point_sample(x, offset.to(place.dtype), s, groups),
        ),
        (x, offset),
    )


def make_upsampler(upsample_cfg: dict, shape: Shape, place: Place) -> Work:
    """An upsampler of configs/_base_/upsamplers, with a guide of as many channels."""
    upsampler = build_upsampler(upsample_cfg, shape.channels, shape.scale_factor)
    if isinstance(upsampler, DySample):
        # As after training: points a quarter of a pixel around where they start.
        torch.nn.init.normal_(upsampler.offset.weight, std=upsampler.offset.in_channels**-0.5)
    if place.rounded_to is not None:
        upsampler.to(place.rounded_to)
    upsampler.to(place.device, place.dtype)
    x = place.put(torch.randn(shape[:4]))
    guide = place.put(torch.randn(*shape[:2], *shape.upsampled))
    arguments = (x, guide) if upsampler.guided else (x,)

    implementations: dict[str, Callable[[], Tensor]] = dict(ours=partial(upsampler, *arguments))
    rival = naive_upsampler(upsampler, *arguments)
    if rival is not None:
        implementations["naive"] = rival
    if not upsampler.any_size:
        implementations["bilinear"] = partial(
            F.interpolate, x, scale_factor=shape.scale_factor, mode="bilinear"
        )
    return Work(
        implementations,
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


def naive_upsampler(upsampler: Upsampler, *arguments: Tensor) -> Callable[[], Tensor] | None:
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
            scope_factor=upsampler.scope_factor,
            initial_position=upsampler.initial_position,
        )
    forms = {CARAFE: naive_carafe, A2U: naive_a2u, FADE: naive_fade, SAPA: naive_sapa}
    form = forms.get(type(upsampler))
    return None if form is None else partial(form, upsampler, *arguments)


def naive_carafe(up: CARAFE, x: Tensor) -> Tensor:
    return naive.reassemble(x, up.kernel(x), up.up_kernel, up.scale_factor, up.up_group)


def naive_a2u(up: A2U, x: Tensor, guide: Tensor) -> Tensor:
    return naive.reassemble(x, up.kernel(guide), a2u.KERNEL_SIZE, up.scale_factor)


def naive_fade(up: FADE, x: Tensor, guide: Tensor) -> Tensor:
    out = naive.reassemble(x, up.kernel(x, guide), up.kernel_size, up.scale_factor)
    if not up.gating:
        return out
    guide = guide if up.guide_channels == up.in_channels else up.aligner(guide)
    gate = F.interpolate(up.gate(x).sigmoid(), scale_factor=up.scale_factor, mode="nearest")
    return gate * guide + (1 - gate) * out


def naive_sapa(up: SAPA, x: Tensor, guide: Tensor) -> Tensor:
    query, key = up.embed(x, guide)
    similarity = naive.local_similarity(query, key, up.kernel_size, up.scale_factor)
    kernel = sapa.NORMALIZATIONS[up.normalization](similarity)
    return naive.reassemble(x, kernel, up.kernel_size, up.scale_factor)


def read_presets() -> dict[str, dict]:
    """Name -> ``upsample_cfg``; these files need no mmengine to be read."""
    paths = sorted(PRESETS.glob("*.py"))
    return {path.stem: runpy.run_path(str(path))["upsample_cfg"] for path in paths}


PRIMITIVES = (
    Operation("point_sample", make_point_sample),
    Operation("reassemble", make_reassemble),
    Operation("local_similarity", make_local_similarity),
)
UPSAMPLERS = tuple(
    Operation(name, partial(make_upsampler, cfg)) for name, cfg in read_presets().items()
)

STAGE = Shape(1, 256, 60, 60)
"""A stage of a feature pyramid, 60x60 -> 120x120."""
FIGURE_8 = Shape(1, 256, 120, 120)
"""What Figure 8 of the DySample paper is measured at, with a guide of 256x240x240."""
EMBEDDING = 32
"""Channels that similarities are taken in: SAPA's d."""
