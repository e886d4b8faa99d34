"""Point sampling in fused Triton kernels.

The positions are computed in registers from the offset map, once for all channels of a group: there
is no grid in memory, no permuted or padded copy. What moves is ``x``, the offsets and the result.

Tiles are of pixels by channels, in this order: where neither is known to be contiguous in memory,
Triton lays a warp along the first axis.

Maps may have any strides. Sums and positions are float32, float64 if ``x`` is.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmdysample.ops.layout import is_channels_last, like_layout
from mmdysample.ops.precision import float32_or_more
from mmdysample.ops.triton.launch import Kernel, tuning_key


@triton.jit
def _neighbors(position, length, ACC: tl.constexpr):
    """The pixels before and after, how far it is from the first, and whether it can be moved."""
    last = (length - 1).to(ACC)
    # A position that is not a number becomes 0; so none is ever read outside of the map.
    inside = (position > 0) & (position < last)
    position = tl.where(position > 0, position, 0.0)
    position = tl.where(position < last, position, last)
    before = position.to(tl.int32)
    after = tl.minimum(before + 1, length - 1)
    return before.to(tl.int64), after.to(tl.int64), position - before.to(ACC), inside


@triton.jit
def _decode(n_pixels, n_chunks, groups, BLOCK_P: tl.constexpr):
    """Which image, group, chunk of channels and pixels a program works on."""
    program = tl.program_id(0)
    n_blocks = tl.cdiv(n_pixels, BLOCK_P)
    pixel = (program % n_blocks) * BLOCK_P + tl.arange(0, BLOCK_P)
    program = program // n_blocks
    chunk = program % n_chunks
    program = program // n_chunks
    return (program // groups).to(tl.int64), (program % groups).to(tl.int64), chunk, pixel


@triton.jit
def _row_and_column(pixel, width, S: tl.constexpr):
    """Where a pixel of the result lies in it."""
    # Told that pixels follow one another Triton would exchange values between threads, to load or
    # store several at once; what a warp's threads access lies side by side anyway.
    return pixel // (S * width), tl.max_contiguous(pixel % (S * width), 1)


@triton.jit
def _point(
    offset_ptr,
    image,
    group,
    pixel,
    valid,
    groups,
    height,
    width,
    offset_image,
    offset_channel,
    offset_row,
    offset_column,
    S: tl.constexpr,
    ACC: tl.constexpr,
):
    """Where a pixel of the result is sampled: its two axes' :func:`_neighbors`."""
    y, x = _row_and_column(pixel, width, S)
    row, column = y // S, x // S
    channel = group * S * S + (y % S) * S + x % S
    here = offset_ptr + image * offset_image + channel * offset_channel
    here += row.to(tl.int64) * offset_row + column.to(tl.int64) * offset_column
    offset_x = tl.load(here, mask=valid, other=0.0).to(ACC)
    here += groups.to(tl.int64) * S * S * offset_channel
    offset_y = tl.load(here, mask=valid, other=0.0).to(ACC)
    x0, x1, across, moves_x = _neighbors(column.to(ACC) + offset_x, width, ACC)
    y0, y1, down, moves_y = _neighbors(row.to(ACC) + offset_y, height, ACC)
    return x0, x1, across, moves_x, y0, y1, down, moves_y


# Specialized to 1 a size would not be a number of Triton's any more.
@triton.jit(do_not_specialize=["height", "width", "groups", "tuning_key"])
def _forward_kernel(
    x_ptr,
    offset_ptr,
    out_ptr,
    height,
    width,
    groups,
    x_image,
    x_channel,
    x_row,
    x_column,
    offset_image,
    offset_channel,
    offset_row,
    offset_column,
    out_image,
    out_channel,
    out_row,
    out_column,
    tuning_key,
    CHANNELS: tl.constexpr,
    S: tl.constexpr,
    ACC: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    n_pixels = S * S * height * width
    n_chunks = tl.cdiv(CHANNELS, CHUNK)
    image, group, chunk, pixel = _decode(n_pixels, n_chunks, groups, BLOCK_P)
    valid = pixel < n_pixels
    x0, x1, across, _, y0, y1, down, _ = _point(
        offset_ptr,
        image,
        group,
        pixel,
        valid,
        groups,
        height,
        width,
        offset_image,
        offset_channel,
        offset_row,
        offset_column,
        S,
        ACC,
    )
    at_00 = (y0 * x_row + x0 * x_column)[:, None]
    at_01 = (y0 * x_row + x1 * x_column)[:, None]
    at_10 = (y1 * x_row + x0 * x_column)[:, None]
    at_11 = (y1 * x_row + x1 * x_column)[:, None]
    across, down = across[:, None], down[:, None]
    y, x = _row_and_column(pixel, width, S)
    out_at = (y.to(tl.int64) * out_row + x.to(tl.int64) * out_column)[:, None]
    for start in tl.static_range(0, CHUNK, BLOCK_C):
        in_group = chunk * CHUNK + start + tl.arange(0, BLOCK_C)
        channel = (group * CHANNELS + in_group)[None, :]
        mask = (in_group < CHANNELS)[None, :] & valid[:, None]
        x_map = x_ptr + image * x_image + channel * x_channel
        v_00 = tl.load(x_map + at_00, mask=mask, other=0.0).to(ACC)
        v_01 = tl.load(x_map + at_01, mask=mask, other=0.0).to(ACC)
        v_10 = tl.load(x_map + at_10, mask=mask, other=0.0).to(ACC)
        v_11 = tl.load(x_map + at_11, mask=mask, other=0.0).to(ACC)
        value = (1 - down) * ((1 - across) * v_00 + across * v_01)
        value += down * ((1 - across) * v_10 + across * v_11)
        out_map = out_ptr + image * out_image + channel * out_channel
        tl.store(out_map + out_at, value.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _add(ptr, value, unit, mask, FIXED: tl.constexpr):
    """Add to a sum; a fixed-point one counts in units of 1 / ``unit``."""
    if FIXED:
        tl.atomic_add(ptr, (value * unit).to(tl.int64), mask=mask, sem="relaxed")
    else:
        tl.atomic_add(ptr, value, mask=mask, sem="relaxed")


@triton.jit(do_not_specialize=["height", "width", "groups", "tuning_key"])
def _backward_kernel(
    grad_ptr,
    x_ptr,
    offset_ptr,
    grad_x_ptr,
    unit_ptr,
    grad_offset_ptr,
    height,
    width,
    groups,
    grad_image,
    grad_channel,
    grad_row,
    grad_column,
    x_image,
    x_channel,
    x_row,
    x_column,
    offset_image,
    offset_channel,
    offset_row,
    offset_column,
    grad_x_image,
    grad_x_channel,
    grad_x_row,
    grad_x_column,
    tuning_key,
    CHANNELS: tl.constexpr,
    S: tl.constexpr,
    ACC: tl.constexpr,
    NEED_X: tl.constexpr,
    NEED_OFFSET: tl.constexpr,
    FIXED: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    n_pixels = S * S * height * width
    image, group, _, pixel = _decode(n_pixels, 1, groups, BLOCK_P)
    valid = pixel < n_pixels
    x0, x1, across, moves_x, y0, y1, down, moves_y = _point(
        offset_ptr,
        image,
        group,
        pixel,
        valid,
        groups,
        height,
        width,
        offset_image,
        offset_channel,
        offset_row,
        offset_column,
        S,
        ACC,
    )
    y, x = _row_and_column(pixel, width, S)
    grad_at = (y.to(tl.int64) * grad_row + x.to(tl.int64) * grad_column)[:, None]
    across, down = across[:, None], down[:, None]
    by_x = tl.zeros((BLOCK_P, BLOCK_C), dtype=ACC)
    by_y = tl.zeros((BLOCK_P, BLOCK_C), dtype=ACC)
    for start in range(0, CHANNELS, BLOCK_C):
        in_group = start + tl.arange(0, BLOCK_C)
        is_channel = (in_group < CHANNELS)[None, :]
        channel = (group * CHANNELS + in_group)[None, :]
        mask = is_channel & valid[:, None]
        grad_map = grad_ptr + image * grad_image + channel * grad_channel
        grad = tl.load(grad_map + grad_at, mask=mask, other=0.0).to(ACC)
        if NEED_OFFSET:
            x_map = x_ptr + image * x_image + channel * x_channel
            v_00 = tl.load(x_map + (y0 * x_row + x0 * x_column)[:, None], mask=mask, other=0.0)
            v_01 = tl.load(x_map + (y0 * x_row + x1 * x_column)[:, None], mask=mask, other=0.0)
            v_10 = tl.load(x_map + (y1 * x_row + x0 * x_column)[:, None], mask=mask, other=0.0)
            v_11 = tl.load(x_map + (y1 * x_row + x1 * x_column)[:, None], mask=mask, other=0.0)
            v_00, v_01, v_10, v_11 = v_00.to(ACC), v_01.to(ACC), v_10.to(ACC), v_11.to(ACC)
            by_x += grad * ((1 - down) * (v_01 - v_00) + down * (v_11 - v_10))
            by_y += grad * ((1 - across) * (v_10 - v_00) + across * (v_11 - v_01))
        if NEED_X:
            to = grad_x_ptr + image * grad_x_image + channel * grad_x_channel
            unit = 1.0
            if FIXED:
                n_channels = CHANNELS * groups
                unit = tl.load(unit_ptr + image * n_channels + channel, mask=is_channel, other=0.0)
            w_00, w_01 = (1 - down) * (1 - across), (1 - down) * across
            w_10, w_11 = down * (1 - across), down * across
            # Weights that are zero, of neighbors beyond the border, are not worth an atomic.
            at_00 = to + (y0 * grad_x_row + x0 * grad_x_column)[:, None]
            at_01 = to + (y0 * grad_x_row + x1 * grad_x_column)[:, None]
            at_10 = to + (y1 * grad_x_row + x0 * grad_x_column)[:, None]
            at_11 = to + (y1 * grad_x_row + x1 * grad_x_column)[:, None]
            _add(at_00, grad * w_00, unit, mask & (w_00 > 0), FIXED)
            _add(at_01, grad * w_01, unit, mask & (w_01 > 0), FIXED)
            _add(at_10, grad * w_10, unit, mask & (w_10 > 0), FIXED)
            _add(at_11, grad * w_11, unit, mask & (w_11 > 0), FIXED)
    if NEED_OFFSET:
        # A point that is clamped to the border does not move with its offset.
        grad_offset_x = tl.where(moves_x, tl.sum(by_x, 1), 0.0)
        grad_offset_y = tl.where(moves_y, tl.sum(by_y, 1), 0.0)
        plane = height.to(tl.int64) * width
        channel = (group * S + y % S) * S + x % S
        n_channels = 2 * groups.to(tl.int64) * S * S
        to = grad_offset_ptr + (image * n_channels + channel) * plane
        to += (y // S).to(tl.int64) * width + x // S
        dtype = grad_offset_ptr.dtype.element_ty
        tl.store(to, grad_offset_x.to(dtype), mask=valid)
        tl.store(to + groups.to(tl.int64) * S * S * plane, grad_offset_y.to(dtype), mask=valid)


def _config(warps: int, **settings: int) -> triton.Config:
    return triton.Config(settings, num_warps=warps, num_stages=1)


# Channels first: a warp runs along a row of the result, and a thread has the same place in several
# channels, whose loads are under way at the same time.
_forward = Kernel(
    _forward_kernel,
    [
        _config(4, CHUNK=16, BLOCK_C=4, BLOCK_P=128),
        _config(4, CHUNK=32, BLOCK_C=4, BLOCK_P=128),
        _config(8, CHUNK=16, BLOCK_C=4, BLOCK_P=256),
        _config(4, CHUNK=8, BLOCK_C=8, BLOCK_P=128),
        _config(8, CHUNK=64, BLOCK_C=2, BLOCK_P=512),
    ],
)
_forward_channels_last = Kernel(
    _forward_kernel,
    [
        _config(4, CHUNK=64, BLOCK_C=64, BLOCK_P=16),
        _config(4, CHUNK=64, BLOCK_C=32, BLOCK_P=32),
        _config(8, CHUNK=128, BLOCK_C=128, BLOCK_P=16),
    ],
)
_backward_settings = (
    [
        _config(4, BLOCK_C=4, BLOCK_P=64),
        _config(4, BLOCK_C=2, BLOCK_P=128),
        _config(4, BLOCK_C=8, BLOCK_P=32),
        _config(8, BLOCK_C=4, BLOCK_P=128),
    ],
    ["grad_x_ptr"],
)
_backward = Kernel(_backward_kernel, *_backward_settings)
_backward_channels_last = Kernel(
    _backward_kernel,
    [_config(4, BLOCK_C=64, BLOCK_P=16), _config(4, BLOCK_C=32, BLOCK_P=32)],
    ["grad_x_ptr"],
)


def forward(x: Tensor, offset: Tensor, scale_factor: int, groups: int) -> Tensor:
    """As :func:`mmdysample.ops.point_sample`, in the memory format of ``x``."""
    batch, channels, height, width = x.shape
    s = scale_factor
    out = like_layout(x, (batch, channels, s * height, s * width), x.dtype)
    if not out.numel():
        return out
    per_group = channels // groups
    pixels = s * s * height * width

    def grid(settings):
        blocks = triton.cdiv(pixels, settings["BLOCK_P"])
        return (batch * groups * triton.cdiv(per_group, settings["CHUNK"]) * blocks,)

    kernel = _forward_channels_last if is_channels_last(x) else _forward
    kernel.launch(
        grid,
        x,
        offset,
        out,
        height,
        width,
        groups,
        *x.stride(),
        *offset.stride(),
        *out.stride(),
        tuning_key(s, batch * groups * pixels, per_group),
        CHANNELS=per_group,
        S=s,
        ACC=_triton_dtype(x),
        on=x.device,
    )
    return out


def backward(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    scale_factor: int,
    groups: int,
    need_x: bool,
    need_offset: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of ``x`` and ``offset``; an empty tensor for one that is not needed.

    What a point gives to the pixels around it is added up by atomics, in an order of the hardware's
    choice: in float32, or, under ``torch.use_deterministic_algorithms``, in 64-bit integers, whose
    sum does not depend on the order. They count in a unit that leaves room for a channel's worst
    case, all points on one pixel: 2^-40 or less of the channel's largest gradient in maps of up to
    2^21 points, but no less than 2^-126. A channel with a gradient that is not finite comes out as
    NaN there.
    """
    batch, channels, height, width = x.shape
    s = scale_factor
    per_group, pixels = channels // groups, s * s * height * width
    dtype = float32_or_more(x.dtype)
    fixed = need_x and torch.are_deterministic_algorithms_enabled()
    none = x.new_empty(0)
    grad_x = sums = unit = none
    grad_offset = offset.new_zeros(offset.shape if need_offset and not grad.numel() else 0)
    if need_offset and grad.numel():
        grad_offset = torch.empty_like(offset, memory_format=torch.contiguous_format)
    if need_x:
        sums = like_layout(x, x.shape, torch.int64 if fixed else dtype).zero_()
    if fixed and grad.numel():
        unit = _fixed_point_unit(grad, dtype)

    def grid(settings):
        return (batch * groups * triton.cdiv(pixels, settings["BLOCK_P"]),)

    if grad.numel() and (need_x or need_offset):
        kernel = _backward_channels_last if is_channels_last(grad) else _backward
        kernel.launch(
            grid,
            grad,
            x,
            offset,
            sums,
            unit,
            grad_offset,
            height,
            width,
            groups,
            *grad.stride(),
            *x.stride(),
            *offset.stride(),
            *(sums.stride() if need_x else (0, 0, 0, 0)),
            tuning_key(s, need_x, need_offset, batch * groups * pixels, per_group),
            CHANNELS=per_group,
            S=s,
            ACC=_triton_dtype(x),
            NEED_X=need_x,
            NEED_OFFSET=need_offset,
            FIXED=fixed,
            on=x.device,
        )
    if need_x:
        grad_x = (sums.to(dtype) / unit if unit.numel() else sums).to(x.dtype)
    return grad_x, grad_offset


def _fixed_point_unit(grad: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, C, 1, 1), by how much to multiply what is added up; a power of two, or NaN."""
    largest = grad.abs().amax((2, 3), keepdim=True).to(dtype)
    exponent = torch.frexp(largest).exponent  # largest < 2^exponent
    points = grad.shape[2] * grad.shape[3]
    # A power of two beyond 2^126 has no reciprocal in float32.
    power = (62 - points.bit_length() - exponent).clamp(max=126)
    unit = torch.ldexp(torch.ones_like(largest), power)
    return torch.where(largest.isfinite(), unit, float("nan")).contiguous()


def _triton_dtype(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32
