"""Point sampling: read a feature map at learned positions around each of its pixels.

DySample ("Learning to Upsample by Learning to Sample", ICCV 2023), section 3.1, Eq. (1) and (3).

:func:`_compute` chooses who computes it, forward and backward: Triton's kernels
(:mod:`point_sample_autograd`), sums of rows (:mod:`pytorch.point_sample_rows`) or PyTorch's
``grid_sample``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdysample.errors import InvalidValue
from mmdysample.ops import point_sample_autograd
from mmdysample.ops.backend import uses_triton
from mmdysample.ops.checks import check_map, check_same_device, positive_int
from mmdysample.ops.layout import in_layout_of, is_channels_last
from mmdysample.ops.precision import float32_or_more
from mmdysample.ops.pytorch.point_sample_rows import by_indexing, by_rows
from mmdysample.ops.tracing import is_exporting, is_transforming

MIN_CHANNELS_PER_GROUP = 16
"""Fewest channels per group for which row sampling is faster: they fill a CPU's cache line."""


def point_sample(x: Tensor, offset: Tensor, scale_factor: int = 2, groups: int = 1) -> Tensor:
    """Sample s*s points per pixel of ``x``, bilinearly.

    The point for sub-pixel (i, j) of pixel (row, col) in channel group k lies at::

        column  col + offset[b, (0, k, i, j), row, col]
        row     row + offset[b, (1, k, i, j), row, col]

    in units of input pixels, counted from the center of the pixel and clamped to the outermost
    pixel centers; one that is not a number lies in the first pixel. It becomes pixel
    (s*row + i, s*col + j) of the result. Zero offsets give nearest interpolation; the sub-pixel
    centers, (i - (s-1)/2)/s, give bilinear interpolation.

    Args:
        x: (B, C, H, W), floating point.
        offset: (B, 2*g*s*s, H, W), channels ordered as (axis, group, i, j), axis x before y.
        scale_factor: s >= 1.
        groups: g; each of the g groups of C/g consecutive channels has its own points.

    Returns:
        (B, C, s*H, s*W) in the dtype and the memory format of ``x``; contiguous under torch.func.
        Positions and interpolation are computed in float32, in float64 if ``x`` is. Transforms of
        torch.func and forward-mode differentiation are followed, at several times the memory of the
        result; without them not every path has a gradient that can be differentiated again.

    Raises:
        TypeError: an input that is not floating point, a setting that is not an integer.
        ValueError: shapes that do not fit together, a setting below 1, or two devices.
    """
    s, g = positive_int("scale_factor", scale_factor), positive_int("groups", groups)
    check_map("x", x)
    batch, channels, height, width = x.shape
    if channels % g:
        raise InvalidValue(f"groups must divide the {channels} channels of x, got {groups}")
    if height < 1 or width < 1:
        raise InvalidValue(f"x must have at least one pixel, got {tuple(x.shape)}")
    check_map("offset", offset, (batch, 2 * g * s * s, height, width))
    check_same_device("x", x, "offset", offset)
    return _compute(x, offset, s, g)


def _compute(x: Tensor, offset: Tensor, s: int, g: int) -> Tensor:
    """Choose the implementation: by whether the call is traced or transformed, device, layout."""
    if is_exporting():
        return in_layout_of(x, _by_grid_sample(x, offset, s, g))
    if uses_triton("point_sample", s * s * x.shape[2] * x.shape[3], x, offset):
        return point_sample_autograd.point_sample(x, offset, s, g)
    if is_transforming():
        return by_indexing(x, offset, s, g)
    if x.device.type == "cpu" and is_channels_last(x) and x.shape[1] // g >= MIN_CHANNELS_PER_GROUP:
        return by_rows(x, offset, s, g)
    return in_layout_of(x, _by_grid_sample(x, offset, s, g))


def _by_grid_sample(x: Tensor, offset: Tensor, s: int, g: int) -> Tensor:
    """In PyTorch's own sampling, which is made for channels first."""
    batch, channels, height, width = x.shape
    dtype = float32_or_more(x.dtype)
    # (B, 2, g, i, j, H, W) -> (2, B, g, H, i, W, j): each pixel becomes a block of s*s points
    offset = offset.to(dtype).reshape(batch, 2, g, s, s, height, width).permute(1, 0, 2, 5, 3, 6, 4)
    center_x = torch.arange(width, dtype=dtype, device=x.device).unsqueeze(-1) + 0.5
    center_y = torch.arange(height, dtype=dtype, device=x.device).view(-1, 1, 1, 1) + 0.5
    # grid_sample wants -1 and 1 at the outer edges of the map (align_corners=False).
    grid_x = (offset[0] + center_x) * (2 / width) - 1
    grid_y = (offset[1] + center_y) * (2 / height) - 1
    # stacked, the permuted points are laid out as grid_sample reads them
    grid = torch.stack((grid_x, grid_y), dim=-1).reshape(batch * g, s * height, s * width, 2)
    if x.device.type == "cpu" and not is_exporting():
        # For positions that are NaN the backward of grid_sample on a CPU writes out of bounds.
        grid = grid.nan_to_num(nan=-1.0)
    out = F.grid_sample(
        x.to(dtype).reshape(batch * g, channels // g, height, width),
        grid,
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return out.reshape(batch, channels, s * height, s * width).to(x.dtype)
