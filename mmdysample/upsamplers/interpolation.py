"""The fixed interpolations that learned upsamplers replace (DySample paper, section 4)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmdysample.registry import register_upsampler
from mmdysample.upsamplers.base import Upsampler


class _Interpolation(Upsampler):
    """Any target size is reached in one step, exactly as the models of OpenMMLab do it."""

    any_size = True


@register_upsampler
class Nearest(_Interpolation):
    """Nearest-neighbor interpolation."""

    def upsample(self, x: Tensor, guide: None, size: tuple[int, int]) -> Tensor:
        return F.interpolate(x, size=size, mode="nearest")

    def flops(self, height: int, width: int) -> dict[str, int]:
        return {"interpolation": 0}


@register_upsampler
class Bilinear(_Interpolation):
    """Bilinear interpolation with ``align_corners=False``."""

    def upsample(self, x: Tensor, guide: None, size: tuple[int, int]) -> Tensor:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)

    def flops(self, height: int, width: int) -> dict[str, int]:
        return {"interpolation": 4 * self.scale_factor**2 * self.in_channels * height * width}
