"""UPerNet's head, whose top-down path is built of upsamplers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads import UPerHead
from mmseg.registry import MODELS
from torch import Tensor

from mmdysample.errors import InvalidValue
from mmdysample.hosts import build_stages, check_channels, top_down


@MODELS.register_module()
class UpsampleUPerHead(UPerHead):
    """mmseg's UPerHead with a configurable upsampler at every stage of the top-down path.

    The pooled maps of the pyramid and the levels that are fused at the end reach their size by
    bilinear interpolation, as in UPerHead.

    Args:
        upsample_cfg: ``dict(type='DySample', ...)``: what every stage is built from. The guide of a
            stage is the lateral that its result is added to. None means UPerHead's bilinear
            interpolation.
        *args, **kwargs: as for mmseg's UPerHead.

    State-dict names: ``upsample_modules.N`` is the stage whose result is added to lateral N.
    """

    def __init__(self, *args, upsample_cfg: dict | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if upsample_cfg is None:
            if self.align_corners:
                raise InvalidValue(
                    "UpsampleUPerHead interpolates with align_corners=False, got "
                    "align_corners=True; set upsample_cfg, or use UPerHead"
                )
            upsample_cfg = dict(type="Bilinear")
        self.upsample_cfg = upsample_cfg
        self.upsample_modules = build_stages(
            upsample_cfg, [self.channels] * len(self.lateral_convs)
        )

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        """Features of the backbone, fine to coarse -> (B, channels, H, W) of the finest level."""
        inputs = self._transform_inputs(inputs)
        check_channels("UpsampleUPerHead", inputs, self.in_channels)
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, inputs, strict=False)]
        coarsest = self.psp_forward(inputs)
        levels = top_down(coarsest, laterals, self.upsample_modules)

        outs = [conv(x) for conv, x in zip(self.fpn_convs, levels, strict=True)]
        outs.append(coarsest)
        size = outs[0].shape[2:]
        for level in range(1, len(outs)):
            outs[level] = F.interpolate(
                outs[level], size=size, mode="bilinear", align_corners=self.align_corners
            )
        return self.fpn_bottleneck(torch.cat(outs, dim=1))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Features of the backbone, fine to coarse -> (B, num_classes, H, W), the finest's size."""
        return self.cls_seg(self._forward_feature(inputs))
