"""How maps lie in memory: channels first, or channels last."""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def like_layout(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialized tensor in the memory format of ``like``."""
    memory_format = torch.channels_last if is_channels_last(like) else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=memory_format)


def in_layout_of(like: Tensor, x: Tensor) -> Tensor:
    """``x`` in channels last if ``like`` is, else as it is."""
    return x.contiguous(memory_format=torch.channels_last) if is_channels_last(like) else x
