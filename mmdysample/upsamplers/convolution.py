"""The convolutions that the papers compare with (DySample paper, section 4)."""

from __future__ import annotations

from torch import Tensor

from mmdysample.registry import register_upsampler
from mmdysample.upsamplers.base import Upsampler
from mmdysample.upsamplers.layers import Conv2d, ConvTranspose2d, pixel_shuffle


@register_upsampler
class Deconv(Upsampler):
    """Transposed convolution, stride s.

    The kernel is (2s-1) x (2s-1) with padding s-1 and output padding s-1: for s = 2 the paper's
    3x3, stride 2, padding 1, output padding 1. Every s gives exactly s times the size.

    Args:
        in_channels: channels C of ``x``.
        scale_factor: s >= 1.
        guide_channels: accepted as every upsampler does; not used.

    Weights without biases: (2s-1)^2 * C^2.
    """

    def __init__(
        self, in_channels: int, scale_factor: int = 2, *, guide_channels: int | None = None
    ) -> None:
        super().__init__(in_channels, scale_factor, guide_channels=guide_channels)
        c, s = self.in_channels, self.scale_factor
        self.conv = ConvTranspose2d(
            c, c, kernel_size=2 * s - 1, stride=s, padding=s - 1, output_padding=s - 1
        )

    def upsample(self, x: Tensor, guide: None, size: tuple[int, int]) -> Tensor:
        return self.conv(x).to(x.dtype)

    def flops(self, height: int, width: int) -> dict[str, int]:
        return {"convolution": self.conv.weight.numel() * height * width}


@register_upsampler
class PixelShuffle(Upsampler):
    """3x3 convolution from C to s*s*C channels, which become the s*s sub-pixels.

    Shi et al.: "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
    Convolutional Neural Network", CVPR 2016.

    Args:
        in_channels: channels C of ``x``.
        scale_factor: s >= 1.
        guide_channels: accepted as every upsampler does; not used.

    Weights without biases: 9 * s*s * C^2.
    """

    def __init__(
        self, in_channels: int, scale_factor: int = 2, *, guide_channels: int | None = None
    ) -> None:
        super().__init__(in_channels, scale_factor, guide_channels=guide_channels)
        self.conv = Conv2d(self.in_channels, self.scale_factor**2 * self.in_channels, 3, padding=1)

    def upsample(self, x: Tensor, guide: None, size: tuple[int, int]) -> Tensor:
        return pixel_shuffle(self.conv(x), self.scale_factor).to(x.dtype)

    def flops(self, height: int, width: int) -> dict[str, int]:
        return {"convolution": self.conv.weight.numel() * height * width}
