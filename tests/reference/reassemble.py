"""Reassembly by its definition."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def reassemble(
    x: Tensor, kernel: Tensor, kernel_size: int, scale_factor: int = 2, groups: int = 1
) -> Tensor:
    """CARAFE, Eq. (3), a pixel and a tap at a time, in float64."""
    x, kernel = x.double(), kernel.double()
    batch, channels, height, width = x.shape
    k, s = kernel_size, scale_factor
    per_group = channels // groups
    out = x.new_zeros(batch, channels, s * height, s * width)
    for b, group, row, col in itertools.product(
        range(batch), range(groups), range(s * height), range(s * width)
    ):
        span = slice(group * per_group, (group + 1) * per_group)
        for i, j in itertools.product(range(k), range(k)):
            y, z = row // s + i - k // 2, col // s + j - k // 2
            if 0 <= y < height and 0 <= z < width:
                weight = kernel[b, group * k * k + i * k + j, row, col]
                out[b, span, row, col] += weight * x[b, span, y, z]
    return out


def random_inputs(
    batch: int,
    channels: int,
    height: int,
    width: int,
    kernel_size: int,
    scale_factor: int,
    groups: int = 1,
    **options,
) -> tuple[Tensor, Tensor]:
    """x, and kernels that a softmax has normalised."""
    s, k = scale_factor, kernel_size
    x = torch.randn(batch, channels, height, width, **options)
    logits = torch.randn(batch, groups, k * k, s * height, s * width, **options)
    return x, logits.softmax(2).flatten(1, 2)
