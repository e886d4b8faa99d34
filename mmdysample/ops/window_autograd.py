"""The three window products as PyTorch operators, each with its backward: the other two.

Three maps take part: ``pixels`` (B, C, s*H, s*W), ``coarse`` (B, C, H, W) and ``kernel``
(B, g*K*K, s*H, s*W). Together they have one trilinear form::

    sum over b, c, Y, X, i, j of
        pixels[b, c, Y, X] * kernel[b, (g(c), i, j), Y, X] * coarse[b, c, Y//s+i-K//2, X//s+j-K//2]

where coarse counts as zero outside its map. The three products are its derivatives by each of the
maps, so the gradients of each are the other two, any number of times:

=======================  ==============================  ==============================
product                  what it is                      its gradients
=======================  ==============================  ==============================
:class:`WeightedSum`     by ``pixels``: reassembly       ScatteredSum, InnerProduct
:class:`InnerProduct`    by ``kernel``: similarity       WeightedSum, ScatteredSum
:class:`ScatteredSum`    by ``coarse``                   WeightedSum, InnerProduct
=======================  ==============================  ==============================

They are computed by :mod:`triton.windows` where :func:`uses_triton` says so, else by
:mod:`pytorch.window_tiles`; by :mod:`window_taps` where an exporter or a transform follows basic
operators alone (:mod:`tracing`). As registered operators they are one node of a compiled graph,
however many tiles they run through.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmdysample.ops import window_taps
from mmdysample.ops.backend import uses_triton
from mmdysample.ops.checks import Window
from mmdysample.ops.layout import like_layout
from mmdysample.ops.pytorch import window_tiles
from mmdysample.ops.tracing import is_exporting, is_transforming

# dtype is that of the result
_SETTINGS = "int kernel_size, int scale_factor, int groups, ScalarType dtype"
_library = torch.library.Library("mmdysample", "DEF")
_library.define(f"window_weighted_sum(Tensor coarse, Tensor kernel, {_SETTINGS}) -> Tensor")
_library.define(f"window_inner_product(Tensor pixels, Tensor coarse, {_SETTINGS}) -> Tensor")
_library.define(f"window_scattered_sum(Tensor pixels, Tensor kernel, {_SETTINGS}) -> Tensor")


def _area(fine: Tensor) -> int:
    return fine.shape[2] * fine.shape[3]


def _needs_basic_operators(operation: str, fine: Tensor, other: Tensor) -> bool:
    """Whether an exporter or a transform follows the call: they know basic operators alone."""
    if is_exporting():
        return True
    if is_transforming():
        # never with Triton: logs this, and refuses if Triton is demanded
        uses_triton(operation, _area(fine), fine, other)
        return True
    return False


def weighted_sum(coarse: Tensor, kernel: Tensor, window: Window, dtype: torch.dtype) -> Tensor:
    """Reassembly: each pixel's sum over its window of kernel * coarse, (B, C, s*H, s*W)."""
    if _needs_basic_operators("weighted_sum", kernel, coarse):
        return window_taps.weighted_sum(coarse, kernel, window, dtype)
    return torch.ops.mmdysample.window_weighted_sum(coarse, kernel, *window, dtype)


class WeightedSum(torch.autograd.Function):
    """Reassembly and its backward, which is that of CARAFE, A2U, FADE and SAPA."""

    @staticmethod
    def forward(ctx, coarse, kernel, kernel_size, scale_factor, groups, dtype):
        ctx.save_for_backward(coarse, kernel)
        ctx.window = Window(kernel_size, scale_factor, groups)
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.mmdysample.window_weighted_sum(coarse, kernel, *ctx.window, dtype)

    @staticmethod
    def backward(ctx, grad):
        coarse, kernel = ctx.saved_tensors
        grad_coarse = grad_kernel = None
        if ctx.needs_input_grad[0]:
            grad_coarse = scattered_sum(grad, kernel, ctx.window, coarse.dtype)
        if ctx.needs_input_grad[1]:
            grad_kernel = inner_product(grad, coarse, ctx.window, kernel.dtype)
        return grad_coarse, grad_kernel, None, None, None, None


@torch.library.impl(_library, "window_weighted_sum", "Autograd")
def _differentiable_weighted_sum(*arguments) -> Tensor:
    return WeightedSum.apply(*arguments)


@torch.library.impl(_library, "window_weighted_sum", "Meta")
def _empty_weighted_sum(coarse, kernel, kernel_size, scale_factor, groups, dtype) -> Tensor:
    return like_layout(coarse, (*coarse.shape[:2], *kernel.shape[2:]), dtype)


@torch.library.impl(_library, "window_weighted_sum", "CompositeExplicitAutograd")
def _compute_weighted_sum(coarse, kernel, kernel_size, scale_factor, groups, dtype) -> Tensor:
    window = Window(kernel_size, scale_factor, groups)
    out = _empty_weighted_sum(coarse, kernel, *window, dtype)
    if not out.numel():
        return out
    if uses_triton("weighted_sum", _area(kernel), coarse, kernel):
        from mmdysample.ops.triton import windows

        windows.weighted_sum(coarse, kernel, window, out)
    else:
        window_tiles.weighted_sum(coarse, kernel, window, out)
    return out


def inner_product(pixels: Tensor, coarse: Tensor, window: Window, dtype: torch.dtype) -> Tensor:
    """Local similarity: each pixel's inner products with its window, (B, g*K*K, s*H, s*W)."""
    if _needs_basic_operators("inner_product", pixels, coarse):
        return window_taps.inner_product(pixels, coarse, window, dtype)
    return torch.ops.mmdysample.window_inner_product(pixels, coarse, *window, dtype)


class InnerProduct(torch.autograd.Function):
    """Local similarity and its backward, SAPA's; also the gradient of reassembly's kernels."""

    @staticmethod
    def forward(ctx, pixels, coarse, kernel_size, scale_factor, groups, dtype):
        ctx.save_for_backward(pixels, coarse)
        ctx.window = Window(kernel_size, scale_factor, groups)
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.mmdysample.window_inner_product(pixels, coarse, *ctx.window, dtype)

    @staticmethod
    def backward(ctx, grad):
        pixels, coarse = ctx.saved_tensors
        grad_pixels = grad_coarse = None
        if ctx.needs_input_grad[0]:
            grad_pixels = weighted_sum(coarse, grad, ctx.window, pixels.dtype)
        if ctx.needs_input_grad[1]:
            grad_coarse = scattered_sum(pixels, grad, ctx.window, coarse.dtype)
        return grad_pixels, grad_coarse, None, None, None, None


@torch.library.impl(_library, "window_inner_product", "Autograd")
def _differentiable_inner_product(*arguments) -> Tensor:
    return InnerProduct.apply(*arguments)


@torch.library.impl(_library, "window_inner_product", "Meta")
def _empty_inner_product(pixels, coarse, kernel_size, scale_factor, groups, dtype) -> Tensor:
    channels = groups * kernel_size**2
    return like_layout(pixels, (pixels.shape[0], channels, *pixels.shape[2:]), dtype)


@torch.library.impl(_library, "window_inner_product", "CompositeExplicitAutograd")
def _compute_inner_product(pixels, coarse, kernel_size, scale_factor, groups, dtype) -> Tensor:
    window = Window(kernel_size, scale_factor, groups)
    out = _empty_inner_product(pixels, coarse, *window, dtype)
    if not out.numel():
        return out
    if uses_triton("inner_product", _area(pixels), pixels, coarse):
        from mmdysample.ops.triton import windows

        windows.inner_product(pixels, coarse, window, out)
    else:
        window_tiles.inner_product(pixels, coarse, window, out)
    return out


def scattered_sum(pixels: Tensor, kernel: Tensor, window: Window, dtype: torch.dtype) -> Tensor:
    """Each pixel times its kernel, added up where its window lies, (B, C, H, W)."""
    if _needs_basic_operators("scattered_sum", pixels, kernel):
        return window_taps.scattered_sum(pixels, kernel, window, dtype)
    return torch.ops.mmdysample.window_scattered_sum(pixels, kernel, *window, dtype)


class ScatteredSum(torch.autograd.Function):
    """The gradient of the coarse map, of reassembly and of local similarity, and its backward."""

    @staticmethod
    def forward(ctx, pixels, kernel, kernel_size, scale_factor, groups, dtype):
        ctx.save_for_backward(pixels, kernel)
        ctx.window = Window(kernel_size, scale_factor, groups)
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.mmdysample.window_scattered_sum(pixels, kernel, *ctx.window, dtype)

    @staticmethod
    def backward(ctx, grad):
        pixels, kernel = ctx.saved_tensors
        grad_pixels = grad_kernel = None
        if ctx.needs_input_grad[0]:
            grad_pixels = weighted_sum(grad, kernel, ctx.window, pixels.dtype)
        if ctx.needs_input_grad[1]:
            grad_kernel = inner_product(pixels, grad, ctx.window, kernel.dtype)
        return grad_pixels, grad_kernel, None, None, None, None


@torch.library.impl(_library, "window_scattered_sum", "Autograd")
def _differentiable_scattered_sum(*arguments) -> Tensor:
    return ScatteredSum.apply(*arguments)


@torch.library.impl(_library, "window_scattered_sum", "Meta")
def _empty_scattered_sum(pixels, kernel, kernel_size, scale_factor, groups, dtype) -> Tensor:
    batch, channels, height, width = pixels.shape
    shape = (batch, channels, height // scale_factor, width // scale_factor)
    return like_layout(pixels, shape, dtype)


@torch.library.impl(_library, "window_scattered_sum", "CompositeExplicitAutograd")
def _compute_scattered_sum(pixels, kernel, kernel_size, scale_factor, groups, dtype) -> Tensor:
    window = Window(kernel_size, scale_factor, groups)
    out = _empty_scattered_sum(pixels, kernel, *window, dtype)
    if not out.numel():
        return out
    if uses_triton("scattered_sum", _area(pixels), pixels, kernel):
        from mmdysample.ops.triton import windows

        windows.scattered_sum(pixels, kernel, window, out)
    else:
        window_tiles.scattered_sum(pixels, kernel, window, out)
    return out
