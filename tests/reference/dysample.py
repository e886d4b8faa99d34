"""DySample in loops over pixels; in PyTorch as the paper draws it, it is in the package.

Liu, Lu, Fu, Cao: "Learning to Upsample by Learning to Sample", ICCV 2023, section 3 and Fig. 6.
Weights are those of 1x1 convolutions, (out, in, 1, 1); a bias or ``scope`` may be None.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from mmdysample.ops.naive import dysample as dysample_torch
from tests.reference.point_sample import point_sample

__all__ = ["dysample", "dysample_torch"]


def dysample(
    x: Tensor,
    offset_weight: Tensor,
    offset_bias: Tensor,
    scope_weight: Tensor | None = None,
    scope_bias: Tensor | None = None,
    *,
    scale_factor: int = 2,
    groups: int = 4,
    style: str = "lp",
    scope_factor: float | None = None,
    initial_position: str = "bilinear",
) -> Tensor:
    """In loops, in float64."""
    s, g = scale_factor, groups
    project = {"lp": conv1x1, "pl": shuffled_conv1x1}[style]
    raw = project(x, offset_weight, offset_bias, s)
    if scope_factor is None:
        scope_factor = 0.25 if scope_weight is None else 0.5
    scope = None if scope_weight is None else project(x, scope_weight, scope_bias, s)

    offset = torch.empty_like(raw)
    for b, row, col in itertools.product(range(raw.shape[0]), *map(range, raw.shape[2:])):
        for axis, group, i, j in itertools.product(range(2), range(g), range(s), range(s)):
            channel = ((axis * g + group) * s + i) * s + j
            moved = scope_factor * raw[b, channel, row, col].item()
            if scope is not None:
                moved /= 1 + math.exp(-scope[b, channel, row, col].item())
            start = 0.0
            if initial_position == "bilinear":
                # x runs along a row, so it goes with the sub-column
                start = ((-s + 1) / 2 + (j if axis == 0 else i)) / s
            offset[b, channel, row, col] = start + moved
    return point_sample(x, offset, s, g)


def conv1x1(x: Tensor, weight: Tensor, bias: Tensor | None, scale_factor: int) -> Tensor:
    """'LP': (B, C, H, W) -> (B, out, H, W)."""
    out_channels, in_channels = weight.shape[:2]
    images, weights = x.double().tolist(), weight.double().flatten(1).tolist()
    biases = [0.0] * out_channels if bias is None else bias.double().tolist()
    out = torch.empty(x.shape[0], out_channels, *x.shape[2:], dtype=torch.float64)
    for b, o, row, col in itertools.product(*map(range, out.shape)):
        terms = (weights[o][c] * images[b][c][row][col] for c in range(in_channels))
        out[b, o, row, col] = biases[o] + math.fsum(terms)
    return out


def shuffled_conv1x1(x: Tensor, weight: Tensor, bias: Tensor | None, scale_factor: int) -> Tensor:
    """'PL': shuffle C channels into s*s sub-pixels of C/s^2, convolve, shuffle back."""
    s = scale_factor
    batch, channels, height, width = x.shape
    shuffled = torch.empty(batch, channels // s**2, s * height, s * width, dtype=torch.float64)
    for b, c, row, col in itertools.product(*map(range, shuffled.shape)):
        channel = c * s * s + (row % s) * s + col % s
        shuffled[b, c, row, col] = x[b, channel, row // s, col // s]
    fine = conv1x1(shuffled, weight, bias, s)
    out = torch.empty(batch, fine.shape[1] * s * s, height, width, dtype=torch.float64)
    for b, c, row, col in itertools.product(*map(range, fine.shape)):
        channel = c * s * s + (row % s) * s + col % s
        out[b, channel, row // s, col // s] = fine[b, c, row, col]
    return out
