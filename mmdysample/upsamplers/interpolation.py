"""The fixed interpolations that learned upsamplers replace (DySample paper, section 4)."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from mmdysample.errors import InvalidType
from mmdysample.registry import register_upsampler
from mmdysample.upsamplers.base import Upsampler


class _Interpolation(Upsampler):
    """Any target size is reached in one step, exactly as the models of OpenMMLab do it."""

    any_size = True


@register_upsampler
class Nearest(_Interpolation):
    """Nearest-neighbor interpolation."""

    starts_as: ClassVar = {"nearest": {}}

    def upsample(self, x: Tensor, guide: None, size: tuple[int, int]) -> Tensor:
        return F.interpolate(x, size=size, mode="nearest")

    def flops(self, height: int, width: int) -> dict[str, int]:
        return {"interpolation": 0}


@register_upsampler
class Bilinear(_Interpolation):
    """Bilinear interpolation.

    Args:
        align_corners: whether the centers of the corner pixels stay where they are, as in
            ``F.interpolate``; some depth estimators do so.
        in_channels, scale_factor, guide_channels: as for every `Upsampler`.
    """

    starts_as: ClassVar = {"bilinear": dict(align_corners=False)}

    def __init__(
        self,
        in_channels: int,
        scale_factor: int = 2,
        *,
        guide_channels: int | None = None,
        align_corners: bool = False,
    ) -> None:
        super().__init__(in_channels, scale_factor, guide_channels=guide_channels)
        if not isinstance(align_corners, bool):
            raise InvalidType(f"align_corners must be True or False, got {align_corners!r}")
        self.align_corners = align_corners

    def upsample(self, x: Tensor, guide: None, size: tuple[int, int]) -> Tensor:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=self.align_corners)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, align_corners={self.align_corners}"

    def flops(self, height: int, width: int) -> dict[str, int]:
        return {"interpolation": 4 * self.scale_factor**2 * self.in_channels * height * width}
