"""Each primitive as its paper writes it, in a few lines of PyTorch that keep nothing back.

To read first; and what the fast ones are compared with, by tests, by the benchmark and by
:mod:`kernel_check`. Everything is computed in the dtype of the inputs, nothing is checked.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reassemble(
    x: Tensor, kernel: Tensor, kernel_size: int, scale_factor: int = 2, groups: int = 1
) -> Tensor:
    """Unfold ``x``, repeat each window for its s*s pixels, multiply by the kernels and add up."""
    batch, channels, height, width = x.shape
    k, s = kernel_size, scale_factor
    windows = F.unfold(x, k, padding=k // 2).view(batch, channels * k * k, height, width)
    windows = F.interpolate(windows, scale_factor=s, mode="nearest")
    size = (s * height, s * width)
    windows = windows.view(batch, groups, channels // groups, k * k, *size)
    products = windows * kernel.view(batch, groups, 1, k * k, *size)
    return products.sum(3).view(batch, channels, *size)


def local_similarity(query: Tensor, key: Tensor, kernel_size: int, scale_factor: int = 2) -> Tensor:
    """Unfold ``key``, repeat each window for its s*s pixels, multiply by ``query`` and add up."""
    batch, channels, height, width = key.shape
    k, s = kernel_size, scale_factor
    windows = F.unfold(key, k, padding=k // 2).view(batch, channels * k * k, height, width)
    windows = F.interpolate(windows, scale_factor=s, mode="nearest")
    windows = windows.view(batch, channels, k * k, s * height, s * width)
    return (windows * query.unsqueeze(2)).sum(1)


def point_sample(x: Tensor, offset: Tensor, scale_factor: int = 2, groups: int = 1) -> Tensor:
    """Shuffle the offsets (B, 2*g*s*s, H, W) from pixel centers to the result's size and sample."""
    offset = F.pixel_shuffle(offset, scale_factor)
    return sample_shuffled(x, offset, scale_factor, groups, "nearest")


def sample_shuffled(
    x: Tensor, offset: Tensor, scale_factor: int, groups: int, initial_position: str
) -> Tensor:
    """Offsets (B, 2*g, s*H, s*W) -> coordinates as grid_sample takes them -> (B, C, s*H, s*W)."""
    s, g = scale_factor, groups
    batch, channels, height, width = x.shape
    offset = offset.reshape(batch, 2, g, s * height, s * width)
    # Output pixel p lies at (p + 0.5) / s - 0.5 in input pixels; for 'nearest' at p // s.
    rows = torch.arange(s * height, dtype=x.dtype, device=x.device)
    columns = torch.arange(s * width, dtype=x.dtype, device=x.device)
    if initial_position == "bilinear":
        rows, columns = (rows + 0.5) / s - 0.5, (columns + 0.5) / s - 0.5
    else:
        rows, columns = rows.div(s, rounding_mode="floor"), columns.div(s, rounding_mode="floor")
    grid_x = (offset[:, 0] + columns + 0.5) * 2 / width - 1
    grid_y = (offset[:, 1] + rows[:, None] + 0.5) * 2 / height - 1
    grid = torch.stack((grid_x, grid_y), dim=-1).flatten(0, 1)
    out = F.grid_sample(
        x.reshape(batch * g, channels // g, height, width),
        grid,
        padding_mode="border",
        align_corners=False,
    )
    return out.reshape(batch, channels, s * height, s * width)


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
    """All of DySample, as Fig. 6 of its paper draws it: offsets at the result's size, sampled.

    Weights are those of 1x1 convolutions, (out, in, 1, 1); a bias or ``scope`` may be None.
    """
    s = scale_factor

    def project(weight: Tensor, bias: Tensor | None) -> Tensor:
        """(B, C, H, W) -> (B, 2*g, s*H, s*W)."""
        if style == "pl":
            return F.conv2d(F.pixel_shuffle(x, s), weight, bias)
        return F.pixel_shuffle(F.conv2d(x, weight, bias), s)

    offset = project(offset_weight, offset_bias)
    if scope_weight is None:
        offset = offset * (0.25 if scope_factor is None else scope_factor)
    else:
        factor = 0.5 if scope_factor is None else scope_factor
        offset = offset * factor * torch.sigmoid(project(scope_weight, scope_bias))
    return sample_shuffled(x, offset, s, groups, initial_position)
