"""Counts the products that a module makes, operation by operation.

General counters miss sampling and reassembly. Here the three primitives are written as products of
small matrices, which can be counted, in place of the library's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class ProductCounter(TorchDispatchMode):
    """``products``: products of two values, with or without an addition to a sum.

    An operation that it does not know is an error: it might multiply.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in COUNTS:
            self.products += COUNTS[name](out, *args)
        elif name not in FREE:
            raise NotImplementedError(f"does aten::{name} multiply?")
        return out


def _convolution(out, x, weight, bias, stride, padding, dilation, transposed, *_) -> int:
    # A kernel is applied to every pixel of the result; a transposed one to every one of x.
    return (x if transposed else out).numel() * weight[0].numel()


def _mul(out, a, b) -> int:
    constant = any(not isinstance(t, Tensor) or t.numel() == 1 for t in (a, b))
    return 0 if constant else out.numel()


COUNTS = {
    "convolution": _convolution,
    "mm": lambda out, a, b: out.numel() * a.shape[-1],
    "bmm": lambda out, a, b: out.numel() * a.shape[-1],
    "addmm": lambda out, bias, a, b: out.numel() * a.shape[-1],
    "mul": _mul,
    "lerp": lambda out, *_: 2 * out.numel(),  # w*b + (1-w)*a
}
# Views, copies, sums, comparisons; activations, normalisations, pooling, products with constants
_FREE = """
    _adaptive_avg_pool2d _native_batch_norm_legit_no_training _reshape_alias _softmax _to_copy
    _unsafe_view add alias arange as_strided cat clamp clone constant_pad_nd copy_ detach div empty
    expand floor gather hardtanh im2col leaky_relu mean native_batch_norm native_group_norm
    native_layer_norm permute pixel_shuffle promote_types relu reshape rsub select sigmoid slice
    softplus split split_with_sizes squeeze stack sub sum t transpose unbind unfold unsqueeze view
    zeros
"""
FREE = set(_FREE.split())


def reassemble(
    x: Tensor, kernel: Tensor, kernel_size: int, scale_factor: int = 2, groups: int = 1
) -> Tensor:
    """In each group and pixel: (s*s, K*K) kernels times the (K*K, C/g) window."""
    s, k, g = scale_factor, kernel_size, groups
    batch, channels, height, width = x.shape
    windows = F.unfold(x, k, padding=k // 2).view(batch, g, channels // g, k * k, height, width)
    windows = windows.permute(0, 1, 4, 5, 3, 2).flatten(0, 3)
    kernels = kernel.view(batch, g, k * k, height, s, width, s)
    kernels = kernels.permute(0, 1, 3, 5, 4, 6, 2).flatten(4, 5).flatten(0, 3)
    out = torch.bmm(kernels, windows).view(batch, g, height, width, s, s, channels // g)
    out = out.permute(0, 1, 6, 2, 4, 3, 5)
    return out.reshape(batch, channels, s * height, s * width)


def local_similarity(query: Tensor, key: Tensor, kernel_size: int, scale_factor: int = 2) -> Tensor:
    """In each pixel: (s*s, d) queries times the (d, K*K) window."""
    s, k = scale_factor, kernel_size
    batch, channels, height, width = key.shape
    windows = F.unfold(key, k, padding=k // 2).view(batch, channels, k * k, height, width)
    windows = windows.permute(0, 3, 4, 1, 2).flatten(0, 2)
    queries = query.reshape(batch, channels, height, s, width, s).permute(0, 2, 4, 3, 5, 1)
    out = torch.bmm(queries.flatten(3, 4).flatten(0, 2), windows)
    out = out.view(batch, height, width, s, s, k * k).permute(0, 5, 1, 3, 2, 4)
    return out.reshape(batch, k * k, s * height, s * width)


def point_sample(x: Tensor, offset: Tensor, scale_factor: int = 2, groups: int = 1) -> Tensor:
    """At each point: the (C/g, 4) neighbours times 4 weights, each of them a product of two."""
    s, g = scale_factor, groups
    batch, channels, height, width = x.shape
    offset = offset.view(batch, 2, g, s, s, height, width)
    before, after = [], []
    for axis, size, shape in ((1, height, (-1, 1)), (0, width, (1, -1))):
        position = offset[:, axis] + torch.arange(size, dtype=x.dtype).view(shape)
        position = position.clamp(0, size - 1)
        first = position.floor()
        share = position - first
        before.append((first.long(), 1 - share))
        after.append(((first + 1).clamp(max=size - 1).long(), share))
    weights, values = [], []
    flat = x.view(batch, g, channels // g, height * width)
    for row, row_share in (before[0], after[0]):
        for col, col_share in (before[1], after[1]):
            weights.append(row_share * col_share)
            index = (row * width + col).view(batch, g, 1, -1).expand(-1, -1, channels // g, -1)
            values.append(flat.gather(3, index))
    points = math.prod((batch, g, s, s, height, width))
    weight = torch.stack(weights, dim=-1).view(points, 4, 1)
    value = torch.stack(values, dim=-1).transpose(2, 3).reshape(points, channels // g, 4)
    out = torch.bmm(value, weight).view(batch, g, s, s, height, width, channels // g)
    out = out.permute(0, 1, 6, 4, 2, 5, 3)
    return out.reshape(batch, channels, s * height, s * width)
