"""SegFormer's head, climbing to the finest level by x2 stages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from mmseg.models.decode_heads import SegformerHead
from mmseg.registry import MODELS
from torch import Tensor

from mmdysample.errors import InvalidValue
from mmdysample.hosts import build_stages, check_channels
from mmdysample.state_dict import count_stages, rename_prefix
from mmdysample.upsamplers import Upsampler
from mmdysample.upsamplers.base import one_of


@MODELS.register_module()
class UpsampleSegformerHead(SegformerHead):
    """mmseg's SegformerHead with a configurable upsampler.

    Where SegformerHead resizes each projected level to the finest in one interpolation, this one
    climbs by a factor of 2 a stage: c4 -> c3 -> c2 -> c1, c3 -> c2 -> c1, c2 -> c1, six stages with
    parameters of their own (DySample paper, section 4.1). The guide of a stage is the projected
    level whose size it climbs to. Fixed interpolations reach any size at once and do so.

    Args:
        upsample_cfg: ``dict(type='DySample', ...)``. None means SegformerHead's interpolation.
        **kwargs: as for mmseg's SegformerHead.

    State-dict names: ``upsample_modules.N``, N = 0, 1, 2 from c4, 3, 4 from c3 and 5 from c2; the
    older name ``upsamplers.N`` loads too.
    """

    def __init__(self, *, upsample_cfg: dict | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        if upsample_cfg is None:
            mode = one_of("interpolate_mode", self.interpolate_mode, ("bilinear", "nearest"))
            if mode == "bilinear" and self.align_corners:
                raise InvalidValue(
                    "UpsampleSegformerHead interpolates with align_corners=False, got "
                    "align_corners=True; set upsample_cfg, or use SegformerHead"
                )
            upsample_cfg = dict(type=mode.capitalize())
        levels = len(self.in_channels)
        stages = levels * (levels - 1) // 2
        self.upsample_modules = build_stages(upsample_cfg, [self.channels] * stages)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Features of the backbone, fine to coarse -> (B, num_classes, H/4, W/4)."""
        inputs = self._transform_inputs(inputs)
        check_channels("UpsampleSegformerHead", inputs, self.in_channels)
        levels = [conv(x) for conv, x in zip(self.convs, inputs, strict=True)]
        stages = iter(self.upsample_modules)
        outs = []
        for n in reversed(range(1, len(levels))):  # c4, c3, c2, in the order of their stages
            guides = levels[:n][::-1]
            outs.append(_climb(list(islice(stages, n)), levels[n], guides))
        outs = [levels[0], *reversed(outs)]
        return self.cls_seg(self.fusion_conv(torch.cat(outs, dim=1)))

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        rename_prefix(state_dict, prefix + "upsamplers.", prefix + "upsample_modules.")
        stages = count_stages(state_dict, prefix + "upsample_modules.")
        if stages and stages != len(self.upsample_modules):
            raise InvalidValue(
                f"the checkpoint's SegFormer head has {stages} upsampling stages, this one has "
                f"{len(self.upsample_modules)}: n backbone levels need n*(n-1)/2 stages"
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _climb(stages: Sequence[Upsampler], x: Tensor, guides: Sequence[Tensor]) -> Tensor:
    """Upsample ``x`` to the sizes of ``guides`` one after the other."""
    if stages[0].any_size:
        return stages[0](x, guide=guides[-1])
    for stage, guide in zip(stages, guides, strict=True):
        x = stage(x, guide=guide)
    return x
