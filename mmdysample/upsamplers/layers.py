"""What several upsamplers are built of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdysample.errors import InvalidValue
from mmdysample.ops import precision


class _Initialized:
    """Mixin before a layer of PyTorch: ``init`` sets its weights, ``init_bias`` its bias.

    The layer holds its own initialization because FSDP, and whoever else materializes a model from
    the meta device, resets modules one by one, parents before their children.
    """

    def __init__(
        self,
        *args,
        init: Callable[[Tensor], Any] = nn.init.xavier_uniform_,
        init_bias: Callable[[Tensor], Any] = nn.init.zeros_,
        **kwargs,
    ) -> None:
        # PyTorch's constructor calls `reset_parameters`
        self.init = init
        self.init_bias = init_bias
        super().__init__(*args, **kwargs)

    def reset_parameters(self) -> None:
        self.init(self.weight)
        if self.bias is not None:
            self.init_bias(self.bias)


class Conv2d(_Initialized, nn.Conv2d):
    pass


class ConvTranspose2d(_Initialized, nn.ConvTranspose2d):
    pass


class Linear(_Initialized, nn.Linear):
    pass


def only_scale_2(upsampler: str, scale_factor: int) -> None:
    """ValueError unless ``scale_factor`` is 2."""
    if scale_factor != 2:
        raise InvalidValue(f"{upsampler} is defined for scale_factor=2 only, got {scale_factor!r}")


def to_float32_or_more(x: Tensor) -> Tensor:
    """``x`` in float32, in float64 if it is."""
    return x.to(precision.float32_or_more(x.dtype))


def group_norm(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """``norm`` of ``x``, (B, C, H, W), in the dtype of its weights."""
    # torch.group_norm itself: F.group_norm refuses groups of a single value, of which one pixel's
    # maps may be made.
    return torch.group_norm(
        x.to(norm.weight.dtype), norm.num_groups, norm.weight, norm.bias, norm.eps
    )


def pixel_shuffle(x: Tensor, scale_factor: int) -> Tensor:
    """``F.pixel_shuffle``, also with a gradient for an empty batch, which PyTorch's lacks."""
    if x.shape[0]:
        return F.pixel_shuffle(x, scale_factor)
    s = scale_factor
    batch, channels, height, width = x.shape
    return x.reshape(batch, channels // s**2, s * height, s * width)


def split_cells(fine: Tensor, scale_factor: int) -> Tensor:
    """View (B, C, s*H, s*W) as (B, C, H, s, W, s): the s*s sub-pixels of every pixel.

    Together with :func:`as_cells` it puts a low-resolution map on every sub-pixel (as nearest
    interpolation does) without writing it s*s times.
    """
    s = scale_factor
    batch, channels, height, width = fine.shape
    return fine.view(batch, channels, height // s, s, width // s, s)


def as_cells(coarse: Tensor) -> Tensor:
    """View (B, C, H, W) as (B, C, H, 1, W, 1), which broadcasts against :func:`split_cells`."""
    return coarse.unsqueeze(3).unsqueeze(5)


def join_cells(cells: Tensor) -> Tensor:
    """(B, C, H, s, W, s) -> (B, C, s*H, s*W)."""
    return cells.flatten(4, 5).flatten(2, 3)
