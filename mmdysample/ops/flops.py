"""What the primitives cost, for PyTorch's FLOP counter, which knows PyTorch's operators alone::

    from torch.utils.flop_counter import FlopCounterMode
    from mmdysample.ops.flops import FORMULAS

    with FlopCounterMode(custom_mapping=FORMULAS):
        model(image)

As that counter has it, a multiply-accumulate is two FLOPs and what works on single values, such as
activations and gates, is not counted; ``Upsampler.flops`` counts products, gates included.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch

from mmdysample.ops import local_similarity, point_sample, reassemble  # noqa: F401 - registers

Shape = tuple[int, ...]
NEIGHBORS = 4  # of a point, in bilinear sampling


def weighted_sum(
    coarse: Shape, kernel: Shape, kernel_size: int, *settings, out_shape: Shape
) -> int:
    return 2 * kernel_size**2 * prod(out_shape)


def of_pixels(pixels: Shape, other: Shape, kernel_size: int, *settings, out_shape: Shape) -> int:
    """Inner products and scattered sums: each pixel meets the taps of its window."""
    return 2 * kernel_size**2 * prod(pixels)


def _of_points(values: Shape, coordinates: Shape) -> int:
    """Each value is a sum over the neighbors, whose weights a group of channels shares."""
    return 2 * NEIGHBORS * (prod(values) + prod(coordinates) // 2)


def point_sample_forward(x: Shape, offset: Shape, *settings, out_shape: Shape) -> int:
    return _of_points(out_shape, offset)


def point_sample_backward(
    grad: Shape,
    x: Shape,
    offset: Shape,
    scale_factor: int,
    groups: int,
    need_x: bool,
    need_offset: bool,
    *,
    out_shape: tuple[Shape, Shape],
) -> int:
    return (need_x + need_offset) * _of_points(grad, offset)


def grid_sampler(x: Shape, grid: Shape, *settings, out_shape: Shape) -> int:
    return _of_points(out_shape, grid)


def grid_sampler_backward(
    grad: Shape,
    x: Shape,
    grid: Shape,
    mode: int,
    padding: int,
    align_corners: bool,
    needed: list[bool],
    *,
    out_shape: tuple[Shape, Shape],
) -> int:
    return sum(needed) * _of_points(grad, grid)


def embedding_bag(
    weight: Shape,
    indices: Shape,
    offsets: Shape,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Shape | None = None,
    *settings,
    out_shape: tuple[Shape, ...],
) -> int:
    """Rows that are only added, without weights, have no products."""
    return 0 if per_sample_weights is None else 2 * prod(indices) * weight[1]


def embedding_bag_weights_backward(
    grad: Shape, weight: Shape, indices: Shape, *settings, out_shape: Shape
) -> int:
    return 2 * prod(indices) * weight[1]


# The operators of every path of the primitives that PyTorch's counter has no formula for
FORMULAS: dict[object, Callable[..., int]] = {
    torch.ops.mmdysample.window_weighted_sum: weighted_sum,
    torch.ops.mmdysample.window_inner_product: of_pixels,
    torch.ops.mmdysample.window_scattered_sum: of_pixels,
    torch.ops.mmdysample.point_sample: point_sample_forward,
    torch.ops.mmdysample.point_sample_backward: point_sample_backward,
    torch.ops.aten.grid_sampler_2d: grid_sampler,
    torch.ops.aten.grid_sampler_2d_backward: grid_sampler_backward,
    torch.ops.aten._embedding_bag: embedding_bag,
    torch.ops.aten._embedding_bag_forward_only: embedding_bag,
    torch.ops.aten._embedding_bag_per_sample_weights_backward: embedding_bag_weights_backward,
}
