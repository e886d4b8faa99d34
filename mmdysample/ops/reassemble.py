"""Reassembly: each pixel of the result is a weighted sum of a window of the input.

CARAFE ("CARAFE: Content-Aware ReAssembly of FEatures", ICCV 2019), Eq. (3); also used by A2U, FADE
and SAPA.

The backward pass is :class:`window_autograd.WeightedSum`. From ``grad``, that of the result::

    grad_kernel[b, (k, i, j), Y, X] = sum over channels c of group k of
        grad[b, c, Y, X] * x[b, c, Y // s + i - K // 2, X // s + j - K // 2]      (InnerProduct)

    grad_x[b, c, y, x] = sum over all Y, X, i, j whose Y // s + i - K // 2 is y and
                                               whose X // s + j - K // 2 is x, of
        grad[b, c, Y, X] * kernel[b, (k, i, j), Y, X]                             (ScatteredSum)
"""

from __future__ import annotations

from torch import Tensor

from mmdysample.errors import InvalidValue
from mmdysample.ops.checks import check_map, check_same_device, check_window
from mmdysample.ops.tracing import is_exporting
from mmdysample.ops.window_autograd import weighted_sum


def reassemble(
    x: Tensor, kernel: Tensor, kernel_size: int, scale_factor: int = 2, groups: int = 1
) -> Tensor:
    """Sum the K*K window of ``x`` around each pixel of the result, weighted by ``kernel``::

        out[b, c, Y, X] = sum over i, j of
            kernel[b, (k, i, j), Y, X] * x[b, c, Y // s + i - K // 2, X // s + j - K // 2]

    where k is the group of channel c. Where a window leaves the map, x counts as zero, which times
    an infinite weight is NaN; the kernel is used as it is, never renormalized.

    Args:
        x: (B, C, H, W), floating point.
        kernel: (B, g*K*K, s*H, s*W), floating point, already normalized; channels ordered as
            (group, window row, window column).
        kernel_size: K, odd.
        scale_factor: s >= 1.
        groups: g; each of the g groups of C/g consecutive channels has its own kernels.

    Returns:
        (B, C, s*H, s*W) in the dtype and the memory format of ``x``. Sums are accumulated in
        float32, in float64 if one of the two is. No unfolded map is held, forward or backward:
        what is, beside inputs and results, is smaller than the larger of the result and ``kernel``,
        unless that is tiny or a value of ``x`` is not finite. The gradient can be differentiated
        again, in forward mode and by torch.func too; these two hold more (:mod:`window_taps`).

    Raises:
        TypeError: an input that is not floating point, a setting that is not an integer.
        ValueError: shapes or settings that do not fit together.
    """
    window = check_window(kernel_size, scale_factor, groups)
    if not is_exporting():  # whose sizes are symbols
        check_map("x", x)
        batch, channels, height, width = x.shape
        k, s, g = window
        if channels % g:
            raise InvalidValue(f"groups must divide the {channels} channels of x, got {groups}")
        check_map("kernel", kernel, (batch, g * k * k, s * height, s * width))
        check_same_device("x", x, "kernel", kernel)
    return weighted_sum(x, kernel, window, x.dtype)
