"""The three window products as PyTorch operators, and their derivatives.

Three maps take part: ``pixels`` (B, C, s*H, s*W), ``coarse`` (B, C, H, W) and ``kernel``
(B, g*K*K, s*H, s*W). Together they have one trilinear form::

    sum over b, c, Y, X, i, j of
        pixels[b, c, Y, X] * kernel[b, (g(c), i, j), Y, X] * coarse[b, c, Y//s+i-K//2, X//s+j-K//2]

where coarse counts as zero outside its map. The three products are its derivatives by each of the
maps: :func:`weighted_sum` by ``pixels`` (reassembly), :func:`inner_product` by ``kernel`` (local
similarity) and :func:`scattered_sum` by ``coarse``. So the gradients of each are the other two, and
nothing else is needed to differentiate any of them, any number of times.

They are computed by :mod:`window_triton` on GPUs, by :mod:`window_tiles` elsewhere, and by
:mod:`window_taps` in basic operators for whoever follows nothing else (:mod:`tracing`). As
registered operators they are one node of a compiled graph, however many tiles they run through.

The arguments behind the two maps are the same for all three:

    kernel_size, scale_factor, groups   K, s and g
    room                                bytes that a tile may take; see :func:`room_beside`
    dtype                               of the result
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmdysample.ops import window_taps, window_tiles
from mmdysample.ops.backend import uses_triton
from mmdysample.ops.layout import like_layout
from mmdysample.ops.tracing import is_exporting, is_transforming

_SETTINGS = "int kernel_size, int scale_factor, int groups, SymInt room, ScalarType dtype"
_library = torch.library.Library("mmdysample", "DEF")
_library.define(f"window_weighted_sum(Tensor coarse, Tensor kernel, {_SETTINGS}) -> Tensor")
_library.define(f"window_inner_product(Tensor pixels, Tensor coarse, {_SETTINGS}) -> Tensor")
_library.define(f"window_scattered_sum(Tensor pixels, Tensor kernel, {_SETTINGS}) -> Tensor")


def room_beside(numel: int, dtype: torch.dtype) -> int:
    """Bytes that an operator may work in, so as to stay below one buffer of its result's size."""
    return numel * dtype.itemsize * 3 // 4


def _is_followed(operation: str, fine: Tensor, other: Tensor) -> bool:
    """Whether somebody follows the operators, who knows basic ones only."""
    if is_exporting():
        return True
    # asked for the log's sake, and to refuse if Triton is demanded
    return is_transforming() and not uses_triton(
        operation, fine.shape[2] * fine.shape[3], fine, other
    )


def weighted_sum(
    coarse: Tensor,
    kernel: Tensor,
    kernel_size: int,
    scale_factor: int,
    groups: int,
    room: int,
    dtype: torch.dtype,
) -> Tensor:
    """Reassembly: each pixel's sum over its window of kernel * coarse, (B, C, s*H, s*W)."""
    if _is_followed("weighted_sum", kernel, coarse):
        return window_taps.weighted_sum(coarse, kernel, kernel_size, scale_factor, groups, dtype)
    return torch.ops.mmdysample.window_weighted_sum(
        coarse, kernel, kernel_size, scale_factor, groups, room, dtype
    )


class WeightedSum(torch.autograd.Function):
    """Reassembly and its backward: CARAFE's, A2U's, FADE's and SAPA's."""

    @staticmethod
    def forward(ctx, coarse, kernel, kernel_size, scale_factor, groups, room, dtype):
        ctx.save_for_backward(coarse, kernel)
        ctx.settings = kernel_size, scale_factor, groups, room
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.mmdysample.window_weighted_sum(coarse, kernel, *ctx.settings, dtype)

    @staticmethod
    def backward(ctx, grad):
        coarse, kernel = ctx.saved_tensors
        grad_coarse = grad_kernel = None
        if ctx.needs_input_grad[0]:
            grad_coarse = scattered_sum(grad, kernel, *ctx.settings, coarse.dtype)
        if ctx.needs_input_grad[1]:
            grad_kernel = inner_product(grad, coarse, *ctx.settings, kernel.dtype)
        return grad_coarse, grad_kernel, None, None, None, None, None


def _compute_weighted_sum(coarse: Tensor, kernel: Tensor, *settings) -> Tensor:
    if uses_triton("weighted_sum", kernel.shape[2] * kernel.shape[3], coarse, kernel):
        from mmdysample.ops import window_triton

        return window_triton.weighted_sum(coarse, kernel, *settings)
    return window_tiles.weighted_sum(coarse, kernel, *settings)


def _describe_weighted_sum(
    coarse: Tensor, kernel: Tensor, kernel_size, scale_factor, groups, room, dtype
) -> Tensor:
    return like_layout(coarse, window_tiles.pixels_shape(coarse, scale_factor), dtype)


_library.impl("window_weighted_sum", _compute_weighted_sum, "CompositeExplicitAutograd")
_library.impl("window_weighted_sum", _describe_weighted_sum, "Meta")
_library.impl("window_weighted_sum", lambda *args: WeightedSum.apply(*args), "Autograd")


def inner_product(
    pixels: Tensor,
    coarse: Tensor,
    kernel_size: int,
    scale_factor: int,
    groups: int,
    room: int,
    dtype: torch.dtype,
) -> Tensor:
    """Local similarity: each pixel's inner products with its window, (B, g*K*K, s*H, s*W)."""
    if _is_followed("inner_product", pixels, coarse):
        return window_taps.inner_product(pixels, coarse, kernel_size, scale_factor, groups, dtype)
    return torch.ops.mmdysample.window_inner_product(
        pixels, coarse, kernel_size, scale_factor, groups, room, dtype
    )


class InnerProduct(torch.autograd.Function):
    """Local similarity and its backward, SAPA's; also the gradient of reassembly's kernels."""

    @staticmethod
    def forward(ctx, pixels, coarse, kernel_size, scale_factor, groups, room, dtype):
        ctx.save_for_backward(pixels, coarse)
        ctx.settings = kernel_size, scale_factor, groups, room
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.mmdysample.window_inner_product(pixels, coarse, *ctx.settings, dtype)

    @staticmethod
    def backward(ctx, grad):
        pixels, coarse = ctx.saved_tensors
        grad_pixels = grad_coarse = None
        if ctx.needs_input_grad[0]:
            grad_pixels = weighted_sum(coarse, grad, *ctx.settings, pixels.dtype)
        if ctx.needs_input_grad[1]:
            grad_coarse = scattered_sum(pixels, grad, *ctx.settings, coarse.dtype)
        return grad_pixels, grad_coarse, None, None, None, None, None


def _compute_inner_product(pixels: Tensor, coarse: Tensor, *settings) -> Tensor:
    if uses_triton("inner_product", pixels.shape[2] * pixels.shape[3], pixels, coarse):
        from mmdysample.ops import window_triton

        return window_triton.inner_product(pixels, coarse, *settings)
    return window_tiles.inner_product(pixels, coarse, *settings)


def _describe_inner_product(
    pixels: Tensor, coarse: Tensor, kernel_size, scale_factor, groups, room, dtype
) -> Tensor:
    shape = window_tiles.kernel_shape(coarse, kernel_size, scale_factor, groups)
    return like_layout(pixels, shape, dtype)


_library.impl("window_inner_product", _compute_inner_product, "CompositeExplicitAutograd")
_library.impl("window_inner_product", _describe_inner_product, "Meta")
_library.impl("window_inner_product", lambda *args: InnerProduct.apply(*args), "Autograd")


def scattered_sum(
    pixels: Tensor,
    kernel: Tensor,
    kernel_size: int,
    scale_factor: int,
    groups: int,
    room: int,
    dtype: torch.dtype,
) -> Tensor:
    """Each pixel times its kernel, added up where its window lies, (B, C, H, W)."""
    if _is_followed("scattered_sum", pixels, kernel):
        return window_taps.scattered_sum(pixels, kernel, kernel_size, scale_factor, groups, dtype)
    return torch.ops.mmdysample.window_scattered_sum(
        pixels, kernel, kernel_size, scale_factor, groups, room, dtype
    )


class ScatteredSum(torch.autograd.Function):
    """The gradient of the coarse map, of reassembly and of local similarity, and its backward."""

    @staticmethod
    def forward(ctx, pixels, kernel, kernel_size, scale_factor, groups, room, dtype):
        ctx.save_for_backward(pixels, kernel)
        ctx.settings = kernel_size, scale_factor, groups, room
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.mmdysample.window_scattered_sum(pixels, kernel, *ctx.settings, dtype)

    @staticmethod
    def backward(ctx, grad):
        pixels, kernel = ctx.saved_tensors
        grad_pixels = grad_kernel = None
        if ctx.needs_input_grad[0]:
            grad_pixels = weighted_sum(grad, kernel, *ctx.settings, pixels.dtype)
        if ctx.needs_input_grad[1]:
            grad_kernel = inner_product(pixels, grad, *ctx.settings, kernel.dtype)
        return grad_pixels, grad_kernel, None, None, None, None, None


def _compute_scattered_sum(pixels: Tensor, kernel: Tensor, *settings) -> Tensor:
    if uses_triton("scattered_sum", pixels.shape[2] * pixels.shape[3], pixels, kernel):
        from mmdysample.ops import window_triton

        return window_triton.scattered_sum(pixels, kernel, *settings)
    return window_tiles.scattered_sum(pixels, kernel, *settings)


def _describe_scattered_sum(
    pixels: Tensor, kernel: Tensor, kernel_size, scale_factor, groups, room, dtype
) -> Tensor:
    return like_layout(pixels, window_tiles.coarse_shape(pixels, scale_factor), dtype)


_library.impl("window_scattered_sum", _compute_scattered_sum, "CompositeExplicitAutograd")
_library.impl("window_scattered_sum", _describe_scattered_sum, "Meta")
_library.impl("window_scattered_sum", lambda *args: ScatteredSum.apply(*args), "Autograd")
