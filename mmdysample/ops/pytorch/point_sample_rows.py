"""Point sampling as sums of rows: each point is a weighted sum of four of them.

A row is a group's C/g channels at one pixel. In channels last they lie side by side in memory, and
so do those of a point in the result: both maps are tables of rows as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmdysample.ops.precision import float32_or_more

NEIGHBORS = 4
"""Pixels around a point, the rows of its sum."""


def by_rows(x: Tensor, offset: Tensor, s: int, g: int) -> Tensor:
    """As :func:`mmdysample.ops.point_sample`, in channels last, fast on a CPU."""
    rows, weights = _neighbors(x, offset, s, g)
    table = _table(x, g)
    # Its own gradient of a table takes twice as long as the one below.
    points = F.embedding_bag(rows, table.detach(), mode="sum", per_sample_weights=weights)
    points = _WithGradientOfTable.apply(points, table, rows, weights.detach())
    return _map(points, x, s)


def by_indexing(x: Tensor, offset: Tensor, s: int, g: int) -> Tensor:
    """The same in basic operators, which hold the rows of all points; contiguous.

    Every transform of torch.func and forward-mode differentiation can follow them.
    """
    rows, weights = _neighbors(x, offset, s, g)
    table = _table(x, g).index_select(0, rows.flatten())
    points = (table.unflatten(0, rows.shape) * weights.unsqueeze(-1)).sum(1)
    return _map(points, x, s).contiguous()


def _table(x: Tensor, g: int) -> Tensor:
    """(B, C, H, W) -> (B*H*W*g, C/g), without a copy if x is float32 in channels last."""
    batch, channels, height, width = x.shape
    x = x.to(float32_or_more(x.dtype)).permute(0, 2, 3, 1)
    return x.reshape(batch * height * width * g, channels // g)


def _map(points: Tensor, x: Tensor, s: int) -> Tensor:
    """(B*s*H*s*W*g, C/g) -> (B, C, s*H, s*W) in channels last, in the dtype of ``x``."""
    batch, channels, height, width = x.shape
    points = points.view(batch, s * height, s * width, channels)
    return points.permute(0, 3, 1, 2).to(x.dtype)


def _neighbors(x: Tensor, offset: Tensor, s: int, g: int) -> tuple[Tensor, Tensor]:
    """The table's rows around each point and their weights, both (B*s*H*s*W*g, 4)."""
    batch, _, height, width = x.shape
    dtype = float32_or_more(x.dtype)
    index_dtype = torch.int32 if x.numel() < 2**31 else torch.int64

    def index(length: int, *shape: int) -> Tensor:
        return torch.arange(length, dtype=index_dtype, device=x.device).view(shape)

    # (B, 2, g, i, j, H, W) -> (2, B, H, i, W, j, g): in the order of the result's rows
    offset = offset.to(dtype).reshape(batch, 2, g, s, s, height, width).permute(1, 0, 5, 3, 6, 4, 2)
    offset = offset.contiguous()
    left, right, across = _around(offset[0] + index(width, width, 1, 1), width)
    above, below, down = _around(offset[1] + index(height, height, 1, 1, 1, 1), height)
    first = index(batch, batch, 1, 1, 1, 1, 1) * (height * width * g) + index(g, g)
    above, below = first + above * (width * g), first + below * (width * g)
    left, right = left * g, right * g
    rows = torch.stack((above + left, above + right, below + left, below + right), -1)
    left, above = 1 - across, 1 - down
    weights = torch.stack((above * left, above * across, down * left, down * across), -1)
    points = (batch * height * s * width * s * g, NEIGHBORS)
    return rows.view(points), weights.view(points)


def _around(position: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pixels before and after, and how far it is from the first."""
    last = length - 1
    # What is clamped to the border does not move. A NaN compares as false and becomes 0.
    clamped = position.detach().nan_to_num(nan=0.0).clamp(0, last)
    position = torch.where((position > 0) & (position < last), position, clamped)
    before = position.detach().to(torch.int32)
    return before, (before + 1).clamp(max=last), position - before


class _WithGradientOfTable(torch.autograd.Function):
    """``points``, sums of ``table[rows] * weights`` that were made without the table's gradient.

    That is a sum of weighted rows again: for each row of the table, over the points that it is in.
    """

    @staticmethod
    def forward(ctx, points, table, rows, weights):
        ctx.save_for_backward(rows, weights)
        ctx.length = table.shape[0]
        return points.view_as(points)

    @staticmethod
    @once_differentiable  # as PyTorch's own sampling
    def backward(ctx, grad):
        rows, weights = ctx.saved_tensors
        # in a fixed order, so that sums are deterministic
        row, order = rows.flatten().sort(stable=True)
        start = torch.searchsorted(row, torch.arange(ctx.length, dtype=row.dtype))
        weights = weights.flatten()[order]
        points = order // NEIGHBORS
        table = F.embedding_bag(points, grad, start, mode="sum", per_sample_weights=weights)
        return grad, table, None, None
