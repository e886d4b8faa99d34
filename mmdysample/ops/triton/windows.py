"""The three window products in fused Triton kernels; :mod:`window_autograd` says what they are.

A program takes coarse pixels with 2*2 of the s*s pixels that lie in each of them, which share a
window: a neighbor is read once for all four, and the K*K neighbors of a pixel overlap in the
cache with those of the next. (The sum over pixels takes all s*s.) Every sum is gathered by the
program that stores it, in a fixed order, without atomics.

Tiles are of pixels by channels or taps, in this order: where neither is known to be contiguous in
memory, Triton lays a warp along the first axis.

Maps may have any strides. Sums are float32, float64 if one of the maps is.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmdysample.ops.checks import Window
from mmdysample.ops.layout import is_channels_last
from mmdysample.ops.precision import accumulation_dtype
from mmdysample.ops.triton.launch import Kernel, tuning_key

_SIZES = ["height", "width", "groups", "tuning_key"]


@triton.jit
def _decode(n_cells, n_chunks, groups, S: tl.constexpr, BLOCK_Q: tl.constexpr):
    """What a program works on: image, group, chunk of channels or taps, quad, coarse pixels."""
    program = tl.program_id(0)
    n_quads: tl.constexpr = ((S + 1) // 2) * ((S + 1) // 2)
    quad = program % n_quads
    program = program // n_quads
    n_blocks = tl.cdiv(n_cells, BLOCK_Q)
    cell = (program % n_blocks) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    program = program // n_blocks
    chunk = program % n_chunks
    program = program // n_chunks
    return (program // groups).to(tl.int64), (program % groups).to(tl.int64), chunk, quad, cell


@triton.jit
def _quad(quad, S: tl.constexpr):
    """The first row and column, among the s*s pixels of a coarse one, of a program's 2*2."""
    per_row: tl.constexpr = (S + 1) // 2
    return 2 * (quad // per_row), 2 * (quad % per_row)


@triton.jit
def _fine_at(row, column, part, stride_row, stride_column, S: tl.constexpr):
    """Where the pixels ``part`` of coarse pixels (row, column) lie in a fine map, (Q, S*S)."""
    y = row.to(tl.int64)[:, None] * S + (part // S)[None, :]
    x = column.to(tl.int64)[:, None] * S + (part % S)[None, :]
    return y * stride_row + x * stride_column


@triton.jit
def _store_pair(ptr, left, right, step, mask, has_right):
    """Two neighbors of a row, in one access where they are adjacent in memory."""
    side = tl.arange(0, 2)[None, None, :]
    mask = mask[:, :, None] & ((side == 0) | has_right)
    value = tl.join(left, right).to(ptr.dtype.element_ty)
    tl.store(ptr[:, :, None] + side * step, value, mask=mask)


# Specialized to 1 a size would not be a number of Triton's any more.
@triton.jit(do_not_specialize=_SIZES)
def _weighted_sum_kernel(
    coarse_ptr,
    kernel_ptr,
    out_ptr,
    height,
    width,
    groups,
    coarse_image,
    coarse_channel,
    coarse_row,
    coarse_column,
    kernel_image,
    kernel_channel,
    kernel_row,
    kernel_column,
    out_image,
    out_channel,
    out_row,
    out_column,
    tuning_key,
    CHANNELS: tl.constexpr,
    K: tl.constexpr,
    S: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    n_cells = height * width
    n_chunks = tl.cdiv(CHANNELS, BLOCK_C)
    image, group, chunk, quad, cell = _decode(n_cells, n_chunks, groups, S, BLOCK_Q)
    row, column = cell // width, cell % width
    in_group = chunk * BLOCK_C + tl.arange(0, BLOCK_C)
    is_channel = in_group < CHANNELS
    channel = group * CHANNELS + in_group
    is_cell = cell < n_cells
    top, left = _quad(quad, S)
    has_right, has_bottom = left + 1 < S, top + 1 < S

    coarse = coarse_ptr + image * coarse_image + (channel * coarse_channel)[None, :]
    coarse += ((row.to(tl.int64) - K // 2) * coarse_row + column.to(tl.int64) * coarse_column)[
        :, None
    ]
    kernel = kernel_ptr + image * kernel_image + group * (K * K) * kernel_channel
    kernel += (row.to(tl.int64) * S + top) * kernel_row
    kernel += (column.to(tl.int64) * S + left) * kernel_column
    sum_00 = tl.zeros((BLOCK_Q, BLOCK_C), dtype=ACC)
    sum_01 = tl.zeros((BLOCK_Q, BLOCK_C), dtype=ACC)
    sum_10 = tl.zeros((BLOCK_Q, BLOCK_C), dtype=ACC)
    sum_11 = tl.zeros((BLOCK_Q, BLOCK_C), dtype=ACC)
    for i in range(K):
        y = row + (i - K // 2)
        in_rows = is_cell & (y >= 0) & (y < height)
        for j in tl.static_range(K):
            x = column + (j - K // 2)
            near = in_rows & (x >= 0) & (x < width)
            mask = is_channel[None, :] & near[:, None]
            # beyond the border x is zero, and times an infinite weight not a number
            value = tl.load(coarse + (j - K // 2) * coarse_column, mask=mask, other=0.0).to(ACC)
            weight = tl.load(kernel, mask=is_cell, other=0.0).to(ACC)
            sum_00 += value * weight[:, None]
            if S > 1:
                at = kernel + kernel_column
                weight = tl.load(at, mask=is_cell & has_right, other=0.0).to(ACC)
                sum_01 += value * weight[:, None]
                at = kernel + kernel_row
                weight = tl.load(at, mask=is_cell & has_bottom, other=0.0).to(ACC)
                sum_10 += value * weight[:, None]
                at += kernel_column
                weight = tl.load(at, mask=is_cell & has_bottom & has_right, other=0.0).to(ACC)
                sum_11 += value * weight[:, None]
            kernel += kernel_channel
        coarse += coarse_row
    out = out_ptr + image * out_image + (channel * out_channel)[None, :]
    out += ((row.to(tl.int64) * S + top) * out_row)[:, None]
    out += ((column.to(tl.int64) * S + left) * out_column)[:, None]
    mask = is_channel[None, :] & is_cell[:, None]
    if S > 1:
        _store_pair(out, sum_00, sum_01, out_column, mask, has_right)
        _store_pair(out + out_row, sum_10, sum_11, out_column, mask & has_bottom, has_right)
    else:
        tl.store(out, sum_00.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=_SIZES)
def _inner_product_kernel(
    pixels_ptr,
    coarse_ptr,
    out_ptr,
    height,
    width,
    groups,
    pixels_image,
    pixels_channel,
    pixels_row,
    pixels_column,
    coarse_image,
    coarse_channel,
    coarse_row,
    coarse_column,
    out_image,
    out_channel,
    out_row,
    out_column,
    tuning_key,
    CHANNELS: tl.constexpr,
    K: tl.constexpr,
    S: tl.constexpr,
    ACC: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    n_cells = height * width
    n_chunks = tl.cdiv(K * K, TAPS)
    image, group, chunk, quad, cell = _decode(n_cells, n_chunks, groups, S, BLOCK_Q)
    row, column = cell // width, cell % width
    is_cell = cell < n_cells
    top, left = _quad(quad, S)
    has_right, has_bottom = left + 1 < S, top + 1 < S
    tap = chunk * TAPS + tl.arange(0, TAPS)
    y = row[:, None] + (tap // K - K // 2)[None, :]
    x = column[:, None] + (tap % K - K // 2)[None, :]
    near = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    near = near & (tap < K * K)[None, :] & is_cell[:, None]

    first = group * CHANNELS
    coarse = coarse_ptr + image * coarse_image + first * coarse_channel
    coarse += y.to(tl.int64) * coarse_row + x.to(tl.int64) * coarse_column
    pixels = pixels_ptr + image * pixels_image + first * pixels_channel
    pixels += (row.to(tl.int64) * S + top) * pixels_row
    pixels += (column.to(tl.int64) * S + left) * pixels_column
    sum_00 = tl.zeros((BLOCK_Q, TAPS), dtype=ACC)
    sum_01 = tl.zeros((BLOCK_Q, TAPS), dtype=ACC)
    sum_10 = tl.zeros((BLOCK_Q, TAPS), dtype=ACC)
    sum_11 = tl.zeros((BLOCK_Q, TAPS), dtype=ACC)
    for _ in range(CHANNELS):
        value = tl.load(coarse, mask=near, other=0.0).to(ACC)
        pixel = tl.load(pixels, mask=is_cell, other=0.0).to(ACC)
        sum_00 += value * pixel[:, None]
        if S > 1:
            at = pixels + pixels_column
            pixel = tl.load(at, mask=is_cell & has_right, other=0.0).to(ACC)
            sum_01 += value * pixel[:, None]
            at = pixels + pixels_row
            pixel = tl.load(at, mask=is_cell & has_bottom, other=0.0).to(ACC)
            sum_10 += value * pixel[:, None]
            at += pixels_column
            pixel = tl.load(at, mask=is_cell & has_bottom & has_right, other=0.0).to(ACC)
            sum_11 += value * pixel[:, None]
        coarse += coarse_channel
        pixels += pixels_channel
    channel = group * (K * K) + tap
    out = out_ptr + image * out_image + (channel * out_channel)[None, :]
    out += ((row.to(tl.int64) * S + top) * out_row)[:, None]
    out += ((column.to(tl.int64) * S + left) * out_column)[:, None]
    mask = (tap < K * K)[None, :] & is_cell[:, None]
    if S > 1:
        _store_pair(out, sum_00, sum_01, out_column, mask, has_right)
        _store_pair(out + out_row, sum_10, sum_11, out_column, mask & has_bottom, has_right)
    else:
        tl.store(out, sum_00.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=_SIZES)
def _scattered_sum_kernel(
    pixels_ptr,
    kernel_ptr,
    out_ptr,
    height,
    width,
    groups,
    pixels_image,
    pixels_channel,
    pixels_row,
    pixels_column,
    kernel_image,
    kernel_channel,
    kernel_row,
    kernel_column,
    out_image,
    out_channel,
    out_row,
    out_column,
    tuning_key,
    CHANNELS: tl.constexpr,
    K: tl.constexpr,
    S: tl.constexpr,
    PARTS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    n_cells = height * width
    n_chunks = tl.cdiv(CHANNELS, BLOCK_C)
    image, group, chunk, _, cell = _decode(n_cells, n_chunks, groups, 1, BLOCK_Q)
    row, column = cell // width, cell % width
    part = tl.arange(0, PARTS)
    in_group = chunk * BLOCK_C + tl.arange(0, BLOCK_C)
    is_channel = in_group < CHANNELS
    channel = group * CHANNELS + in_group

    pixels = pixels_ptr + image * pixels_image + (channel * pixels_channel)[None, :, None]
    kernel = kernel_ptr + image * kernel_image + group * (K * K) * kernel_channel
    total = tl.zeros((BLOCK_Q, BLOCK_C, PARTS), dtype=ACC)
    for tap in range(K * K):
        # whose windows reach here with this tap
        y = row - (tap // K - K // 2)
        x = column - (tap % K - K // 2)
        near = (cell < n_cells) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        is_fine = near[:, None] & (part < S * S)[None, :]
        at = _fine_at(y, x, part, pixels_row, pixels_column, S)
        mask = is_channel[None, :, None] & is_fine[:, None, :]
        pixel = tl.load(pixels + at[:, None, :], mask=mask, other=0.0).to(ACC)
        at = _fine_at(y, x, part, kernel_row, kernel_column, S)
        weight = tl.load(kernel + at, mask=is_fine, other=0.0).to(ACC)
        total += pixel * weight[:, None, :]
        kernel += kernel_channel
    out = out_ptr + image * out_image + (channel * out_channel)[None, :]
    out += (row.to(tl.int64) * out_row + column.to(tl.int64) * out_column)[:, None]
    mask = is_channel[None, :] & (cell < n_cells)[:, None]
    tl.store(out, tl.sum(total, 2).to(out_ptr.dtype.element_ty), mask=mask)


# (channels or taps, what a tile holds, warps)
_TILES = ((16, 1024, 4), (32, 2048, 8), (8, 1024, 4), (32, 1024, 4))
_TILES_CHANNELS_LAST = ((64, 1024, 4), (32, 1024, 4), (128, 2048, 8))
_TILES_OF_TAPS = ((32, 1024, 4), (32, 512, 4), (32, 2048, 8), (32, 512, 2))
_TILES_OF_PARTS = ((8, 1024, 4), (16, 2048, 4), (4, 1024, 4), (16, 2048, 8))
MOST_CELLS = 256


@functools.cache
def _kernel(
    function: triton.runtime.KernelInterface,
    leading: str,
    tiles: tuple[tuple[int, int, int], ...],
    most: int,
    parts: int = 1,
) -> Kernel:
    """``function`` with tiles of up to ``most`` channels or taps, for pixels in ``parts``."""
    configurations = {}
    for lead, size, warps in tiles:
        lead = min(lead, most, max(1, size // parts))
        cells = min(MOST_CELLS, max(1, size // parts // lead))
        config = triton.Config({leading: lead, "BLOCK_Q": cells}, num_warps=warps, num_stages=2)
        configurations.setdefault((lead, cells, warps), config)
    return Kernel(function, list(configurations.values()))


def weighted_sum(coarse: Tensor, kernel: Tensor, window: Window, out: Tensor) -> None:
    """As :func:`pytorch.window_tiles.weighted_sum`."""
    channels = coarse.shape[1] // window.groups
    tiles = _TILES_CHANNELS_LAST if is_channels_last(coarse) else _TILES
    function = _kernel(_weighted_sum_kernel, "BLOCK_C", tiles, triton.next_power_of_2(channels))
    quads = triton.cdiv(window.scale_factor, 2) ** 2
    _launch(function, (coarse, kernel, out), coarse.shape, window, ("BLOCK_C", channels), quads)


def inner_product(pixels: Tensor, coarse: Tensor, window: Window, out: Tensor) -> None:
    """As :func:`pytorch.window_tiles.inner_product`."""
    taps = window.kernel_size**2
    function = _kernel(_inner_product_kernel, "TAPS", _TILES_OF_TAPS, triton.next_power_of_2(taps))
    quads = triton.cdiv(window.scale_factor, 2) ** 2
    _launch(function, (pixels, coarse, out), coarse.shape, window, ("TAPS", taps), quads)


def scattered_sum(pixels: Tensor, kernel: Tensor, window: Window, out: Tensor) -> None:
    """As :func:`pytorch.window_tiles.scattered_sum`."""
    channels = pixels.shape[1] // window.groups
    tiles = _TILES_CHANNELS_LAST if is_channels_last(pixels) else _TILES_OF_PARTS
    most, parts = map(triton.next_power_of_2, (channels, window.scale_factor**2))
    function = _kernel(_scattered_sum_kernel, "BLOCK_C", tiles, most, parts)
    split = ("BLOCK_C", channels)
    _launch(function, (pixels, kernel, out), out.shape, window, split, quads=1, PARTS=parts)


def _launch(
    kernel: Kernel,
    maps: tuple[Tensor, Tensor, Tensor],
    coarse_shape: tuple[int, ...],
    window: Window,
    split: tuple[str, int],
    quads: int,
    **constants: int,
) -> None:
    """Run ``kernel`` on two maps and the result.

    ``split``: the setting of a block's size along channels or taps, and how many there are.
    """
    first, second, out = maps
    kernel_size, scale_factor, groups = window
    batch, channels, height, width = coarse_shape
    per_group, cells = channels // groups, height * width
    leading, length = split

    def grid(settings):
        blocks = triton.cdiv(cells, settings["BLOCK_Q"])
        return (batch * groups * triton.cdiv(length, settings[leading]) * blocks * quads,)

    kernel.launch(
        grid,
        first,
        second,
        out,
        height,
        width,
        groups,
        *first.stride(),
        *second.stride(),
        *out.stride(),
        tuning_key(kernel_size, scale_factor, batch * groups * cells, per_group),
        CHANNELS=per_group,
        K=kernel_size,
        S=scale_factor,
        ACC=tl.float64 if accumulation_dtype(first, second) == torch.float64 else tl.float32,
        on=first.device,
        **constants,
    )
