"""CARAFE by its definition, as mmcv's CARAFEPack computes it: zero taps outside the map.

Wang et al.: "CARAFE: Content-Aware ReAssembly of FEatures", ICCV 2019, Eq. (1) and (2).
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from tests.reference.pixelwise import convolve, softmax, weighted_windows


def carafe(
    x: Tensor,
    state: dict[str, Tensor],
    *,
    scale_factor: int = 2,
    up_kernel: int = 5,
    up_group: int = 1,
) -> Tensor:
    """``state``: ``channel_compressor`` (1x1) and ``content_encoder`` (any odd size)."""
    s, taps = scale_factor, up_kernel**2
    compressed = convolve(x, state["channel_compressor.weight"], state["channel_compressor.bias"])
    weight = state["content_encoder.weight"]
    logits = convolve(
        compressed, weight, state["content_encoder.bias"], padding=weight.shape[-1] // 2
    )
    channels = x.shape[1] // up_group
    groups = []
    for g in range(up_group):
        kernel = torch.zeros(x.shape[0], taps, s * x.shape[2], s * x.shape[3]).double()
        for b, row, col in itertools.product(range(x.shape[0]), *map(range, kernel.shape[2:])):
            sub = (row % s) * s + col % s
            first = g * taps * s * s + sub
            pixel = logits[b, first : first + taps * s * s : s * s, row // s, col // s]
            kernel[b, :, row, col] = softmax(pixel)
        groups.append(weighted_windows(x[:, g * channels : (g + 1) * channels], kernel, s))
    return torch.cat(groups, dim=1)
