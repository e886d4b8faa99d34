"""Local similarity: inner products of each pixel with a window of a smaller map.

SAPA ("SAPA: Similarity-Aware Point Affiliation for Feature Upsampling", NeurIPS 2022), section 3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdysample.ops import window_ops
from mmdysample.ops.window_tiles import accumulation_dtype


def local_similarity(query: Tensor, key: Tensor, kernel_size: int, scale_factor: int = 2) -> Tensor:
    """Inner products of each pixel of ``query`` with the K*K window of ``key`` around it::

        out[b, (i, j), Y, X] = sum over c of
            query[b, c, Y, X] * key[b, c, Y // s + i - K // 2, X // s + j - K // 2]

    The s*s pixels that lie in one pixel of ``key`` share its window. Where a window leaves the
    map, the similarity is zero.

    Args:
        query: (B, d, s*H, s*W), floating point.
        key: (B, d, H, W), floating point.
        kernel_size: K, odd.
        scale_factor: s >= 1.

    Returns:
        (B, K*K, s*H, s*W), channels ordered as (window row, window column), in the memory format
        of ``query``. Accumulated and returned in float32, in float64 if one of the two inputs is:
        what follows is a softmax, which half precision would spoil. No unfolded map is held,
        forward or backward: what is, beside inputs and results, is smaller than the similarities,
        unless those are tiny. The gradient can be differentiated again.

    Raises:
        TypeError: an input that is not floating point, a setting that is not an integer.
        ValueError: shapes or settings that do not fit together.
    """
    if window_ops.is_exporting():
        return _similarity_by_taps(query, key, kernel_size, scale_factor)
    window_ops.check_windows(kernel_size, scale_factor)
    window_ops.check_map("key", key)
    batch, channels, height, width = key.shape
    expected = (batch, channels, scale_factor * height, scale_factor * width)
    window_ops.check_map("query", query, expected)
    window_ops.check_same_device("query", query, "key", key)
    dtype = accumulation_dtype(query, key)
    numel = batch * kernel_size**2 * expected[2] * expected[3]
    room = window_ops.room_beside(numel, dtype)
    return window_ops.inner_product(query, key, kernel_size, scale_factor, 1, room, dtype)


def _similarity_by_taps(query: Tensor, key: Tensor, kernel_size: int, scale_factor: int) -> Tensor:
    """The same in basic operators, for exported graphs."""
    batch, channels, height, width = key.shape
    k, s = kernel_size, scale_factor
    dtype = accumulation_dtype(query, key)
    padded = F.pad(key.to(dtype), [k // 2] * 4)
    query = query.to(dtype).reshape(batch, channels, height, s, width, s)
    taps = []
    for tap in range(k * k):
        i, j = divmod(tap, k)
        near = padded[:, :, i : i + height, j : j + width]
        near = near.reshape(batch, channels, height, 1, width, 1)
        taps.append((query * near).sum(1))
    return torch.stack(taps, 1).reshape(batch, k * k, s * height, s * width)
