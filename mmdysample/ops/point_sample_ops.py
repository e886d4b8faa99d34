"""Point sampling by Triton as PyTorch operators: what autograd and torch.compile need to know.

Triton is imported when the first of them runs.
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


def _forward(*arguments) -> Tensor:
    from mmdysample.ops import point_sample_triton

    return point_sample_triton.forward(*arguments)


def _backward(*arguments) -> tuple[Tensor, Tensor]:
    from mmdysample.ops import point_sample_triton

    return point_sample_triton.backward(*arguments)


def _describe_forward(x: Tensor, offset: Tensor, scale_factor: int, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    return like_layout(x, (batch, channels, scale_factor * height, scale_factor * width), x.dtype)


def _describe_backward(
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


class _PointSample(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, offset, scale_factor, groups):
        ctx.settings = scale_factor, groups
        ctx.save_for_backward(x, offset)
        with torch._C._AutoDispatchBelowAutograd():
            return point_sample(x, offset, scale_factor, groups)

    @staticmethod
    @once_differentiable  # as PyTorch's own sampling
    def backward(ctx, grad):
        needed = ctx.needs_input_grad[:2]
        grads = torch.ops.mmdysample.point_sample_backward(
            grad, *ctx.saved_tensors, *ctx.settings, *needed
        )
        return *(value if need else None for value, need in zip(grads, needed, strict=True)), *[
            None
        ] * 2


_library.impl("point_sample", _forward, "CompositeExplicitAutograd")
_library.impl("point_sample", _describe_forward, "Meta")
_library.impl("point_sample", lambda *arguments: _PointSample.apply(*arguments), "Autograd")
_library.impl("point_sample_backward", _backward, "CompositeExplicitAutograd")
_library.impl("point_sample_backward", _describe_backward, "Meta")

point_sample = torch.ops.mmdysample.point_sample.default
