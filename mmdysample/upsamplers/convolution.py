"""The convolutions that the papers compare with (DySample paper, section 4)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mmdysample.registry import register_upsampler
from mmdysample.upsamplers.base import Upsampler, one_of
from mmdysample.upsamplers.layers import Conv2d, ConvTranspose2d, pixel_shuffle

INITIAL_KERNELS = ("random", "nearest")


@register_upsampler
class Deconv(Upsampler):
    """Transposed convolution, stride s.

    The kernel is (2s-1) x (2s-1) with padding s-1 and output padding s-1: for s = 2 the paper's
    3x3, stride 2, padding 1, output padding 1. Every s gives exactly s times the size.

    Args:
        in_channels: channels C of ``x``.
        scale_factor: s >= 1.
        initial_kernel: what it starts as: 'random' (Xavier), or 'nearest' interpolation.
        guide_channels: accepted as every upsampler does; not used.

    Weights without biases: (2s-1)^2 * C^2.
    """

    starts_as: ClassVar = {"nearest": dict(initial_kernel="nearest")}

    def __init__(
        self,
        in_channels: int,
        scale_factor: int = 2,
        *,
        initial_kernel: str = "random",
        guide_channels: int | None = None,
    ) -> None:
        super().__init__(in_channels, scale_factor, guide_channels=guide_channels)
        self.initial_kernel = one_of("initial_kernel", initial_kernel, INITIAL_KERNELS)
        c, s = self.in_channels, self.scale_factor
        init = _each_pixel_s_times if initial_kernel == "nearest" else nn.init.xavier_uniform_
        self.conv = ConvTranspose2d(
            c, c, kernel_size=2 * s - 1, stride=s, padding=s - 1, output_padding=s - 1, init=init
        )

    def upsample(self, x: Tensor, guide: None, size: tuple[int, int]) -> Tensor:
        return self.conv(x).to(x.dtype)

    def flops(self, height: int, width: int) -> dict[str, int]:
        return {"convolution": self.conv.weight.numel() * height * width}

    def extra_repr(self) -> str:
        text, changed = super().extra_repr(), self.initial_kernel != "random"
        return f"{text}, initial_kernel={self.initial_kernel!r}" if changed else text


@register_upsampler
class PixelShuffle(Upsampler):
    """3x3 convolution from C to s*s*C channels, which become the s*s sub-pixels.

    Shi et al.: "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
    Convolutional Neural Network", CVPR 2016.

    Args:
        in_channels: channels C of ``x``.
        scale_factor: s >= 1.
        initial_kernel: what it starts as: 'random' (Xavier), or 'nearest' interpolation.
        guide_channels: accepted as every upsampler does; not used.

    Weights without biases: 9 * s*s * C^2.
    """

    starts_as: ClassVar = {"nearest": dict(initial_kernel="nearest")}

    def __init__(
        self,
        in_channels: int,
        scale_factor: int = 2,
        *,
        initial_kernel: str = "random",
        guide_channels: int | None = None,
    ) -> None:
        super().__init__(in_channels, scale_factor, guide_channels=guide_channels)
        self.initial_kernel = one_of("initial_kernel", initial_kernel, INITIAL_KERNELS)
        c, s = self.in_channels, self.scale_factor
        init = _each_sub_pixel_alike if initial_kernel == "nearest" else nn.init.xavier_uniform_
        self.conv = Conv2d(c, s**2 * c, 3, padding=1, init=init)

    def upsample(self, x: Tensor, guide: None, size: tuple[int, int]) -> Tensor:
        return pixel_shuffle(self.conv(x), self.scale_factor).to(x.dtype)

    def flops(self, height: int, width: int) -> dict[str, int]:
        return {"convolution": self.conv.weight.numel() * height * width}

    def extra_repr(self) -> str:
        text, changed = super().extra_repr(), self.initial_kernel != "random"
        return f"{text}, initial_kernel={self.initial_kernel!r}" if changed else text


@torch.no_grad()
def _each_pixel_s_times(weight: Tensor) -> None:
    """A transposed convolution's, (C, C, 2s-1, 2s-1): from its middle on, a tap for a sub-pixel."""
    channels, _, size, _ = weight.shape
    weight.zero_()
    weight[..., size // 2 :, size // 2 :] = torch.eye(channels)[..., None, None]


@torch.no_grad()
def _each_sub_pixel_alike(weight: Tensor) -> None:
    """(s*s*C, C, 3, 3), where s*s channels after one another are the sub-pixels of one."""
    rows, channels, _, _ = weight.shape
    weight.zero_()
    weight[..., 1, 1] = torch.eye(channels).repeat_interleave(rows // channels, dim=0)
