"""CARAFE: content-aware reassembly of features.

Wang et al.: "CARAFE: Content-Aware ReAssembly of FEatures", ICCV 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from mmdysample.errors import InvalidValue
from mmdysample.ops import reassemble
from mmdysample.ops.checks import odd_int, positive_int
from mmdysample.registry import register_upsampler
from mmdysample.upsamplers.base import Upsampler, one_of
from mmdysample.upsamplers.layers import Conv2d, pixel_shuffle, to_float32_or_more

INITIAL_KERNELS = ("average", "nearest")
NEIGHBORS_PART = 1e-5  # of all but the center in an initial kernel that is 'nearest'


@register_upsampler
class CARAFE(Upsampler):
    """Predicts from ``x`` a K*K kernel for every output pixel and sums its neighbors with it.

    1x1 convolution C -> 64, 3x3 convolution to the s*s*K*K logits of a pixel, pixel shuffle,
    softmax over the K*K. Neighbors outside the map count as zero, and the kernel is not normalized
    again there.

    Arguments and state-dict names are those of mmcv's ``CARAFEPack``.

    Args:
        in_channels: channels C of ``x``, divisible by ``up_group``.
        scale_factor: s >= 1.
        up_kernel: K, odd.
        up_group: g, groups of channels with kernels of their own.
        encoder_kernel: size of the convolution that predicts the kernels, odd.
        encoder_dilation: its dilation.
        compressed_channels: channels that it sees.
        initial_kernel: what it starts as: 'average', close to the plain average of the K*K
            neighbors, or 'nearest', nearest interpolation up to 1e-5 of the features' largest
            difference (neighbors outside the map counting as zero), which only Adam and its like
            leave, as :meth:`init_weights` says.
        guide_channels: accepted as every upsampler does; not used.
    """

    starts_as: ClassVar = {"nearest": dict(initial_kernel="nearest")}

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
        initial_kernel: str = "average",
        guide_channels: int | None = None,
    ) -> None:
        super().__init__(in_channels, scale_factor, guide_channels=guide_channels)
        self.up_kernel = odd_int("up_kernel", up_kernel)
        self.up_group = positive_int("up_group", up_group)
        self.encoder_kernel = odd_int("encoder_kernel", encoder_kernel)
        self.encoder_dilation = positive_int("encoder_dilation", encoder_dilation)
        self.compressed_channels = positive_int("compressed_channels", compressed_channels)
        self.initial_kernel = one_of("initial_kernel", initial_kernel, INITIAL_KERNELS)
        if in_channels % up_group:
            raise InvalidValue(f"in_channels must be divisible by {up_group=}, got {in_channels}")
        self.channel_compressor = Conv2d(self.in_channels, self.compressed_channels, 1)
        self.content_encoder = Conv2d(
            self.compressed_channels,
            self.up_group * self.up_kernel**2 * self.scale_factor**2,
            self.encoder_kernel,
            padding=self.encoder_dilation * (self.encoder_kernel - 1) // 2,
            dilation=self.encoder_dilation,
            **self._initial_logits(),
        )

    def _initial_logits(self) -> dict[str, Callable[[Tensor], object]]:
        """How the weights and biases of ``content_encoder`` start."""
        if self.initial_kernel == "average":
            return dict(init=partial(nn.init.normal_, std=0.001))
        window = (self.up_group, self.up_kernel**2, self.scale_factor**2)
        return dict(init=nn.init.zeros_, init_bias=partial(_prefer_the_center, window=window))

    def init_weights(self) -> None:
        """Start as ``initial_kernel`` says.

        The logits of an 'average' are small: their weights are normal with a standard deviation of
        0.001.

        Those of 'nearest' do not depend on ``x``, so that the kernels hold for features of any
        size: weights of zero, and a bias of log((K*K-1) / 1e-5), 14.7 for K=5, at the kernel's
        center. Each neighbor then has 4e-7 of the softmax where an average gives it 1/25, and the
        gradients of the logits are as much smaller. ``channel_compressor``, whose gradient passes
        weights of zero, gets one from the second step on.

        Such a start is hard to leave. Learning to upsample smooth maps by their mean squared error,
        in a hundred steps of SGD (learning rate 0.02, momentum 0.9) no parameter moved by 1e-6:
        with SGD it stays nearest. The steps of AdamW (learning rate 0.001) do not shrink with the
        gradient until that comes near its eps of 1e-8: the loss had not changed after a hundred,
        was 0.57 of nearest interpolation's after 300, and 0.46 after 1000. `DySample`, which starts
        to leave at once with both, was at 0.88, 0.70 and 0.45 with AdamW.
        """
        super().init_weights()

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
        text = f"{super().extra_repr()}, up_kernel={self.up_kernel}, up_group={self.up_group}"
        changed = self.initial_kernel != "average"
        return f"{text}, initial_kernel={self.initial_kernel!r}" if changed else text


@torch.no_grad()
def _prefer_the_center(bias: Tensor, window: tuple[int, int, int]) -> None:
    """Logits with which a softmax over K*K leaves NEIGHBORS_PART to all but the center.

    ``bias`` is (g*K*K*s*s,), ``window`` its sizes g, K*K and s*s.
    """
    bias.zero_()
    neighbors = window[1] - 1
    if neighbors:
        bias.view(window)[:, neighbors // 2] = math.log(neighbors / NEIGHBORS_PART)
