"""IndexNet: indices predicted from the encoder weight the upsampled features.

Lu, Dai, Shen, Xu: "Indices Matter: Learning to Index for Deep Image Matting", ICCV 2019.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mmdysample.ops.layout import in_layout_of
from mmdysample.registry import register_upsampler
from mmdysample.upsamplers.base import Upsampler, one_of
from mmdysample.upsamplers.layers import (
    Conv2d,
    as_cells,
    join_cells,
    only_scale_2,
    pixel_shuffle,
    split_cells,
)

VARIANTS = ("hin", "m2o")


@register_upsampler
class IndexNet(Upsampler):
    """Nearest interpolation of ``x``, times an index in (0, 1) predicted from the guide.

    'hin' (holistic index network): one index for all channels of an output pixel. 4x4 convolution
    with stride 2, C_y -> 2*C_y, BN, ReLU6, 1x1 convolution to the four sub-pixels, sigmoid, pixel
    shuffle. 'm2o' (depthwise, many to one): an index for each channel, sees all of the guide's;
    each of the four sub-pixels has such a branch of its own, C_y -> C_y -> C.

    Args:
        in_channels: channels C of ``x``.
        scale_factor: 2, nothing else is defined.
        variant: 'hin' or 'm2o'.
        guide_channels: C_y.

    Weights without biases: HIN 32*C_y^2 + 8*C_y, M2O 64*C_y^2 + 4*C_y*C; batch normalization adds
    4*C_y and 8*C_y. In training it needs more than one value per channel: a map of 1x1 pixels with
    one sample raises PyTorch's ValueError.

    State-dict names: ``index.{0,1,3}.*``, with 'm2o' ``index.N.{0,1,3}.*`` for sub-pixel N = 0 to
    3, row by row; the authors' ``indexnet.*``, and ``indexnet1.*`` to ``indexnet4.*``, load too.
    """

    guided = True
    published_names: ClassVar = {
        "indexnet.": "index.",
        **{f"indexnet{n + 1}.": f"index.{n}." for n in range(4)},
    }

    def __init__(
        self,
        in_channels: int,
        scale_factor: int = 2,
        variant: str = "hin",
        *,
        guide_channels: int | None = None,
    ) -> None:
        super().__init__(in_channels, scale_factor, guide_channels=guide_channels)
        only_scale_2("IndexNet", scale_factor)
        self.variant = one_of("variant", variant, VARIANTS)
        c_y = self.guide_channels
        if variant == "hin":
            self.index = _branch(c_y, 2 * c_y, self.scale_factor**2)
        else:
            self.index = nn.ModuleList(
                _branch(c_y, c_y, self.in_channels) for _ in range(self.scale_factor**2)
            )

    def upsample(self, x: Tensor, guide: Tensor, size: tuple[int, int]) -> Tensor:
        index = split_cells(self.index_map(guide), self.scale_factor)
        return in_layout_of(x, join_cells(as_cells(x) * index)).to(x.dtype)

    def _intermediate_maps(self, x: Tensor, guide: Tensor) -> dict[str, Tensor]:
        return {"index": self.index_map(guide)}

    def index_map(self, guide: Tensor) -> Tensor:
        """The indices, (B, C_y, 2H, 2W) -> (B, 1 or C, 2H, 2W)."""
        if self.variant == "hin":
            logits = self.index(guide)
        else:
            logits = torch.stack([branch(guide) for branch in self.index], dim=2).flatten(1, 2)
        return pixel_shuffle(logits.sigmoid(), self.scale_factor)

    def flops(self, height: int, width: int) -> dict[str, int]:
        convs = [m for m in self.modules() if isinstance(m, nn.Conv2d)]
        pixels = height * width
        return {
            "kernel generation": sum(conv.weight.numel() for conv in convs) * pixels,
            "feature assembly": self.scale_factor**2 * self.in_channels * pixels,
        }

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, variant={self.variant!r}"


def _branch(in_channels: int, hidden: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        Conv2d(in_channels, hidden, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU6(),
        Conv2d(hidden, out_channels, 1, bias=False),
    )
