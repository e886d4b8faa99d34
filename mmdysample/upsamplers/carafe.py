"""CARAFE: content-aware reassembly of features.

Wang et al.: "CARAFE: Content-Aware ReAssembly of FEatures", ICCV 2019.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from mmdysample.errors import InvalidValue
from mmdysample.ops import reassemble
from mmdysample.ops.checks import odd_int, positive_int
from mmdysample.registry import register_upsampler
from mmdysample.upsamplers.base import Upsampler
from mmdysample.upsamplers.layers import Conv2d, pixel_shuffle, to_float32_or_more


@register_upsampler
class CARAFE(Upsampler):
    """Predicts from ``x`` a K*K kernel for every output pixel and sums its neighbors with it.

    1x1 convolution C -> 64, 3x3 convolution to the s*s*K*K logits of a pixel, pixel shuffle,
    softmax over the K*K. Neighbors outside the map count as zero, and the kernel is not normalized
    again there. It starts close to a plain average of the K*K neighbors.

    Arguments and state-dict names are those of mmcv's ``CARAFEPack``.

    Args:
        in_channels: channels C of ``x``, divisible by ``up_group``.
        scale_factor: s >= 1.
        up_kernel: K, odd.
        up_group: g, groups of channels with kernels of their own.
        encoder_kernel: size of the convolution that predicts the kernels, odd.
        encoder_dilation: its dilation.
        compressed_channels: channels that it sees.
        guide_channels: accepted as every upsampler does; not used.
    """

    def __init__(
        self,
        in_channels: int,
        scale_factor: int = 2,
        up_kernel: int = 5,
        up_group: int = 1,
        encoder_kernel: int = 3,
        encoder_dilation: int = 1,
        compressed_channels: int = 64,
        *,
        guide_channels: int | None = None,
    ) -> None:
        super().__init__(in_channels, scale_factor, guide_channels=guide_channels)
        self.up_kernel = odd_int("up_kernel", up_kernel)
        self.up_group = positive_int("up_group", up_group)
        self.encoder_kernel = odd_int("encoder_kernel", encoder_kernel)
        self.encoder_dilation = positive_int("encoder_dilation", encoder_dilation)
        self.compressed_channels = positive_int("compressed_channels", compressed_channels)
        if in_channels % up_group:
            raise InvalidValue(f"in_channels must be divisible by {up_group=}, got {in_channels}")
        self.channel_compressor = Conv2d(self.in_channels, self.compressed_channels, 1)
        self.content_encoder = Conv2d(
            self.compressed_channels,
            self.up_group * self.up_kernel**2 * self.scale_factor**2,
            self.encoder_kernel,
            padding=self.encoder_dilation * (self.encoder_kernel - 1) // 2,
            dilation=self.encoder_dilation,
            init=partial(nn.init.normal_, std=0.001),
        )

    def upsample(self, x: Tensor, guide: None, size: tuple[int, int]) -> Tensor:
        return reassemble(x, self.kernel(x), self.up_kernel, self.scale_factor, self.up_group)

    def _intermediate_maps(self, x: Tensor, guide: None) -> dict[str, Tensor]:
        return {"kernel": self.kernel(x)}

    def kernel(self, x: Tensor) -> Tensor:
        """The kernels, (B, C, H, W) -> (B, g*K*K, s*H, s*W); each sums to 1."""
        logits = self.content_encoder(self.channel_compressor(x))
        logits = to_float32_or_more(pixel_shuffle(logits, self.scale_factor))
        return logits.unflatten(1, (self.up_group, -1)).softmax(dim=2).flatten(1, 2)

    def flops(self, height: int, width: int) -> dict[str, int]:
        pixels = height * width
        weights = self.channel_compressor.weight.numel() + self.content_encoder.weight.numel()
        taps = self.scale_factor**2 * self.up_kernel**2
        return {
            "kernel generation": weights * pixels,
            "feature assembly": taps * self.in_channels * pixels,
        }

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, up_kernel={self.up_kernel}, up_group={self.up_group}"
