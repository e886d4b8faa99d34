"""In which precision a primitive computes."""

from __future__ import annotations

import torch
from torch import Tensor


def float32_or_more(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32: for coordinates, softmax and sums.

    Half precision cannot hold them: bfloat16 has 128 values between 0.5 and 1.
    """
    # `torch.promote_types` says the same, but breaks the graph of torch.compile before 2.3.
    return torch.float64 if dtype == torch.float64 else torch.float32


def accumulation_dtype(*maps: Tensor) -> torch.dtype:
    """float64 if one of the maps is, else float32."""
    return torch.float64 if torch.float64 in [x.dtype for x in maps] else torch.float32
