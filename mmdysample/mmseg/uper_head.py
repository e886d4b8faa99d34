"""UPerNet's head, whose top-down path is built of upsamplers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import ModuleList
from mmseg.models.decode_heads import UPerHead
from mmseg.registry import MODELS
from torch import Tensor

from mmdysample.errors import InvalidValue
from mmdysample.registry import build_upsampler


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
        self.upsample_modules = ModuleList(
            build_upsampler(upsample_cfg, self.channels, 2, guide_channels=self.channels)
            for _ in self.lateral_convs
        )

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        """Features of the backbone, fine to coarse -> (B, channels, H, W) of the finest level."""
        inputs = self._transform_inputs(inputs)
        channels = [x.shape[1] for x in inputs]
        if channels != list(self.in_channels):
            raise InvalidValue(
                f"UpsampleUPerHead takes feature maps of in_channels={self.in_channels}, "
                f"got maps of {channels} channels"
            )
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, inputs, strict=False)]
        laterals.append(self.psp_forward(inputs))

        for level in range(len(laterals) - 1, 0, -1):
            finer = laterals[level - 1]
            upsample = self.upsample_modules[level - 1]
            laterals[level - 1] = finer + upsample(laterals[level], guide=finer)

        outs = [conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=False)]
        outs.append(laterals[-1])
        size = outs[0].shape[2:]
        for level in range(1, len(outs)):
            outs[level] = F.interpolate(
                outs[level], size=size, mode="bilinear", align_corners=self.align_corners
            )
        return self.fpn_bottleneck(torch.cat(outs, dim=1))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Features of the backbone, fine to coarse -> (B, num_classes, H, W), the finest's size."""
        return self.cls_seg(self._forward_feature(inputs))
