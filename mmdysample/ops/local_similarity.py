"""Local similarity: inner products of each pixel with a window of a smaller map.

SAPA ("SAPA: Similarity-Aware Point Affiliation for Feature Upsampling", NeurIPS 2022), section 3.

The backward pass is :class:`window_autograd.InnerProduct`: the gradient of the query is the window
of the key weighted by the gradient of the similarities (as in :func:`reassemble`), that of the key
the queries, so weighted, added up where their windows lie.
"""

from __future__ import annotations

from torch import Tensor

from mmdysample.ops.checks import check_map, check_same_device, check_window
from mmdysample.ops.precision import accumulation_dtype
from mmdysample.ops.tracing import is_exporting
from mmdysample.ops.window_autograd import inner_product


def local_similarity(query: Tensor, key: Tensor, kernel_size: int, scale_factor: int = 2) -> Tensor:
    """Inner products of each pixel of ``query`` with the K*K window of ``key`` around it::

        out[b, (i, j), Y, X] = sum over c of
            query[b, c, Y, X] * key[b, c, Y // s + i - K // 2, X // s + j - K // 2]

    The s*s pixels that lie in one pixel of ``key`` share its window. Where a window leaves the
    map, the key counts as zero and the similarity is zero (NaN of an infinite query).

    Args:
        query: (B, d, s*H, s*W), floating point.
        key: (B, d, H, W), floating point.
        kernel_size: K, odd.
        scale_factor: s >= 1.

    Returns:
        (B, K*K, s*H, s*W), channels ordered as (window row, window column), in the memory format
        of ``query``. Accumulated and returned in float32, in float64 if one of the two inputs is:
        what follows is a softmax, which half precision would spoil. No unfolded map is held,
        forward or backward: what is, beside inputs and results, is smaller than the larger of the
        similarities and ``query``, unless that is tiny or a value is not finite. The gradient can
        be differentiated again, in forward mode and by torch.func too; these two hold more
        (:mod:`window_taps`).

    Raises:
        TypeError: an input that is not floating point, a setting that is not an integer.
        ValueError: shapes or settings that do not fit together.
    """
    window = check_window(kernel_size, scale_factor)
    if not is_exporting():  # whose sizes are symbols
        check_map("key", key)
        batch, channels, height, width = key.shape
        s = window.scale_factor
        check_map("query", query, (batch, channels, s * height, s * width))
        check_same_device("query", query, "key", key)
    return inner_product(query, key, window, accumulation_dtype(query, key))
