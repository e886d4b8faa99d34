"""FADE: fusing the assets of decoder and encoder.

Lu, Liu, Fu, Cao: "FADE: Fusing the Assets of Decoder and Encoder for Task-Agnostic Upsampling",
ECCV 2022.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mmdysample.errors import InvalidType
from mmdysample.ops import reassemble
from mmdysample.ops.checks import odd_int, positive_int
from mmdysample.registry import register_upsampler
from mmdysample.upsamplers.base import Upsampler
from mmdysample.upsamplers.layers import (
    Conv2d,
    as_cells,
    join_cells,
    split_cells,
    to_float32_or_more,
)


@register_upsampler
class FADE(Upsampler):
    """K*K kernels from guide and ``x`` together; a gate lets the guide itself through.

    The guide y and x are compressed by 1x1 convolutions, E with and D without a bias, and both
    convolved with the same 3x3 kernel theta and bias b ("semi-shift convolution")::

        logits = conv3x3(E y; theta, b) + nearest(conv3x3(D x; theta, b))

    Softmax over the K*K logits gives the kernels that sum neighbors of x, zero outside the map.
    The gate g = sigmoid(nearest(conv1x1 x)) blends: g*y + (1-g)*(reassembled x).

    ==================  =================================================================
    FADE                the defaults
    FADE without gate   ``gating=False``: what the DySample paper compares with
    FADE-Lite           ``lite=True``: E and D give the K*K channels at once, theta is depthwise
    ==================  =================================================================

    Args:
        in_channels: channels C of ``x``.
        scale_factor: s >= 1.
        gating: whether the gate is there.
        lite: FADE-Lite.
        kernel_size: K, odd.
        compressed_channels: what E and D give when not ``lite``.
        guide_channels: C_y. If the gate is there and C_y is not C, a 1x1 convolution ``aligner``
            brings the guide to C channels for the blend.

    State-dict names are the symbols above: ``E``, ``D``, ``theta`` (its bias is b), ``gate``; those
    of the authors' modules load too.
    """

    guided = True
    published_names: ClassVar = {
        "ker_generator.compressor_en.": "E.",
        "ker_generator.compressor_de.": "D.",
        "ker_generator.content_encoder.": "theta.",
        "gate_generator.conv.": "gate.",
    }

    def __init__(
        self,
        in_channels: int,
        scale_factor: int = 2,
        gating: bool = True,
        lite: bool = False,
        kernel_size: int = 5,
        compressed_channels: int = 64,
        *,
        guide_channels: int | None = None,
    ) -> None:
        super().__init__(in_channels, scale_factor, guide_channels=guide_channels)
        for name, value in dict(gating=gating, lite=lite).items():
            if not isinstance(value, bool):
                raise InvalidType(f"{name} must be True or False, got {value!r}")
        self.gating = gating
        self.lite = lite
        self.kernel_size = odd_int("kernel_size", kernel_size)
        self.compressed_channels = positive_int("compressed_channels", compressed_channels)
        c, c_y, taps = self.in_channels, self.guide_channels, self.kernel_size**2
        hidden = taps if lite else self.compressed_channels
        self.E = Conv2d(c_y, hidden, 1)
        self.D = Conv2d(c, hidden, 1, bias=False)
        groups = hidden if lite else 1
        self.theta = Conv2d(hidden, taps, 3, padding=1, groups=groups, init=nn.init.xavier_normal_)
        if gating:
            self.gate = Conv2d(c, 1, 1)
            if c_y != c:
                self.aligner = Conv2d(c_y, c, 1)

    def upsample(self, x: Tensor, guide: Tensor, size: tuple[int, int]) -> Tensor:
        out = reassemble(x, self.kernel(x, guide), self.kernel_size, self.scale_factor)
        if not self.gating:
            return out
        if self.guide_channels != self.in_channels:
            guide = self.aligner(guide)
        gate = as_cells(self.gate_map(x))
        out = split_cells(out, self.scale_factor)
        guide = split_cells(guide.to(x.dtype), self.scale_factor)
        return join_cells(torch.lerp(out, guide, gate))

    def _intermediate_maps(self, x: Tensor, guide: Tensor) -> dict[str, Tensor]:
        maps = {"kernel": self.kernel(x, guide)}
        return maps | {"gate": self.gate_map(x)} if self.gating else maps

    def gate_map(self, x: Tensor) -> Tensor:
        """The gate g before it spreads to sub-pixels, (B, C, H, W) -> (B, 1, H, W)."""
        return self.gate(x).sigmoid().to(x.dtype)

    def kernel(self, x: Tensor, guide: Tensor) -> Tensor:
        """The kernels, (B, K*K, s*H, s*W); each sums to 1."""
        s = self.scale_factor
        # The low-to-high form, as written above. Its rival makes the same sums at low resolution,
        # from s*s shifted copies of the compressed guide.
        fine = to_float32_or_more(self.theta(self.E(guide)))
        coarse = to_float32_or_more(self.theta(self.D(x)))
        return join_cells(split_cells(fine, s) + as_cells(coarse)).softmax(dim=1)

    def flops(self, height: int, width: int) -> dict[str, int]:
        s2, c, c_y = self.scale_factor**2, self.in_channels, self.guide_channels
        taps = s2 * self.kernel_size**2
        compress = s2 * self.E.weight.numel() + self.D.weight.numel()
        convolve = (s2 + 1) * self.theta.weight.numel()
        parts = {"kernel generation": compress + convolve, "feature assembly": taps * c}
        if self.gating:
            # the gate's convolution, and two products for each blended value
            parts["gate"] = c + 2 * s2 * c + (s2 * c * c_y if c_y != c else 0)
        return {part: count * height * width for part, count in parts.items()}

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, gating={self.gating}, lite={self.lite}, "
            f"kernel_size={self.kernel_size}"
        )
