"""Reassembly: each pixel of the result is a weighted sum of a window of the input.

CARAFE ("CARAFE: Content-Aware ReAssembly of FEatures", ICCV 2019), Eq. (3); also used by A2U, FADE
and SAPA.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmdysample.errors import InvalidValue
from mmdysample.ops import window_ops
from mmdysample.ops.window_tiles import accumulation_dtype


def reassemble(
    x: Tensor, kernel: Tensor, kernel_size: int, scale_factor: int = 2, groups: int = 1
) -> Tensor:
    """Sum the K*K window of ``x`` around each pixel of the result, weighted by ``kernel``::

        out[b, c, Y, X] = sum over i, j of
            kernel[b, (k, i, j), Y, X] * x[b, c, Y // s + i - K // 2, X // s + j - K // 2]

    where k is the group of channel c. Where a window leaves the map, x counts as zero; the kernel
    is used as it is, never renormalised.

    Args:
        x: (B, C, H, W), floating point.
        kernel: (B, g*K*K, s*H, s*W), floating point, already normalised; channels ordered as
            (group, window row, window column).
        kernel_size: K, odd.
        scale_factor: s >= 1.
        groups: g; each of the g groups of C/g consecutive channels has its own kernels.

    Returns:
        (B, C, s*H, s*W) in the dtype and the memory format of ``x``. Sums are accumulated in
        float32, in float64 if one of the two is. No unfolded map is held, forward or backward:
        what is, beside inputs and results, is smaller than the result, unless that is tiny. The
        gradient can be differentiated again.

    Raises:
        TypeError: an input that is not floating point, a setting that is not an integer.
        ValueError: shapes or settings that do not fit together.
    """
    if window_ops.is_exporting():
        return _reassemble_by_taps(x, kernel, kernel_size, scale_factor, groups)
    window_ops.check_windows(kernel_size, scale_factor, groups)
    window_ops.check_map("x", x)
    batch, channels, height, width = x.shape
    if channels % groups:
        raise InvalidValue(f"groups must divide the {channels} channels of x, got {groups}")
    expected = (batch, groups * kernel_size**2, scale_factor * height, scale_factor * width)
    window_ops.check_map("kernel", kernel, expected)
    window_ops.check_same_device("x", x, "kernel", kernel)
    room = window_ops.room_beside(x.numel() * scale_factor**2, x.dtype)
    return window_ops.weighted_sum(x, kernel, kernel_size, scale_factor, groups, room, x.dtype)


def _reassemble_by_taps(
    x: Tensor, kernel: Tensor, kernel_size: int, scale_factor: int, groups: int
) -> Tensor:
    """The same in basic operators, for exported graphs."""
    dtype = accumulation_dtype(x, kernel)
    batch, channels, height, width = x.shape
    k, s, g = kernel_size, scale_factor, groups
    padded = F.pad(x.to(dtype), [k // 2] * 4)
    kernel = kernel.to(dtype).reshape(batch, g, k * k, height, s, width, s)
    out = None
    for tap in range(k * k):
        i, j = divmod(tap, k)
        near = padded[:, :, i : i + height, j : j + width]
        near = near.reshape(batch, g, channels // g, height, 1, width, 1)
        term = kernel[:, :, tap].unsqueeze(2) * near
        out = term if out is None else out + term
    return out.reshape(batch, channels, s * height, s * width).to(x.dtype)
