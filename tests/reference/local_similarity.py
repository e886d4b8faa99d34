"""Local similarity by its definition."""

from __future__ import annotations

import itertools

from torch import Tensor


def local_similarity(query: Tensor, key: Tensor, kernel_size: int, scale_factor: int = 2) -> Tensor:
    """A pixel and a tap at a time, in float64."""
    query, key = query.double(), key.double()
    batch, _, height, width = key.shape
    k, s = kernel_size, scale_factor
    out = key.new_zeros(batch, k * k, s * height, s * width)
    for b, row, col in itertools.product(range(batch), range(s * height), range(s * width)):
        for i, j in itertools.product(range(k), range(k)):
            y, z = row // s + i - k // 2, col // s + j - k // 2
            if 0 <= y < height and 0 <= z < width:
                out[b, i * k + j, row, col] = query[b, :, row, col] @ key[b, :, y, z]
    return out
