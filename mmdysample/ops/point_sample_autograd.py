"""Point sampling by Triton as PyTorch operators: what autograd and torch.compile need to know.

PyTorch's own sampling, which computes elsewhere, brings its backward. Triton is imported when the
first of these operators runs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmdysample.ops.layout import like_layout

_library = torch.library.Library("mmdysample", "FRAGMENT")
_library.define("point_sample(Tensor x, Tensor offset, int scale_factor, int groups) -> Tensor")
_library.define(
    "point_sample_backward(Tensor grad, Tensor x, Tensor offset, int scale_factor, int groups, "
    "bool need_x, bool need_offset) -> (Tensor, Tensor)"
)
point_sample = torch.ops.mmdysample.point_sample.default


class PointSample(torch.autograd.Function):
    """Point sampling and its backward."""

    @staticmethod
    def forward(ctx, x, offset, scale_factor, groups):
        ctx.settings = scale_factor, groups
        ctx.save_for_backward(x, offset)
        with torch._C._AutoDispatchBelowAutograd():
            return point_sample(x, offset, scale_factor, groups)

    @staticmethod
    @once_differentiable  # as PyTorch's own sampling
    def backward(ctx, grad):
        need_x, need_offset, *_ = ctx.needs_input_grad
        grad_x, grad_offset = torch.ops.mmdysample.point_sample_backward(
            grad, *ctx.saved_tensors, *ctx.settings, need_x, need_offset
        )
        return grad_x if need_x else None, grad_offset if need_offset else None, None, None


@torch.library.impl(_library, "point_sample", "Autograd")
def _differentiable(*arguments) -> Tensor:
    return PointSample.apply(*arguments)


@torch.library.impl(_library, "point_sample", "Meta")
def _empty(x: Tensor, offset: Tensor, scale_factor: int, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    return like_layout(x, (batch, channels, scale_factor * height, scale_factor * width), x.dtype)


@torch.library.impl(_library, "point_sample", "CompositeExplicitAutograd")
def _compute(*arguments) -> Tensor:
    from mmdysample.ops.triton import point_sample as kernels

    return kernels.forward(*arguments)


@torch.library.impl(_library, "point_sample_backward", "Meta")
def _empty_gradients(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    scale_factor: int,
    groups: int,
    need_x: bool,
    need_offset: bool,
) -> tuple[Tensor, Tensor]:
    grad_x = like_layout(x, x.shape, x.dtype) if need_x else x.new_empty(0)
    return grad_x, offset.new_empty(offset.shape if need_offset else 0)


@torch.library.impl(_library, "point_sample_backward", "CompositeExplicitAutograd")
def _compute_gradients(*arguments) -> tuple[Tensor, Tensor]:
    from mmdysample.ops.triton import point_sample as kernels

    return kernels.backward(*arguments)
