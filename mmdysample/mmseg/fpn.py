"""mmseg's FPN neck (Semantic FPN, PointRend), whose top-down path is built of upsamplers."""

from __future__ import annotations

from collections.abc import Sequence

from mmseg.models.necks import FPN
from mmseg.registry import MODELS
from torch import Tensor

from mmdysample.hosts import append_extra_outs, build_stages, check_channels, top_down


@MODELS.register_module()
class UpsampleFPN(FPN):
    """mmseg's FPN with a configurable upsampler at every stage of the top-down path.

    It differs from mmdet's FPN, whose host is :class:`mmdysample.mmdet.UpsampleFPN`, in what
    ``end_level`` and ``add_extra_convs=True`` mean.

    Args:
        upsample_cfg: ``dict(type='DySample', ...)``: what every stage is built from. The guide of a
            stage is the lateral that its result is added to. None means FPN's nearest
            interpolation.
        *args, **kwargs: as for mmseg's FPN.

    State-dict names: ``upsample_modules.N`` is the stage whose result is added to lateral N.
    """

    def __init__(self, *args, upsample_cfg: dict | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.upsample_cfg = dict(type="Nearest") if upsample_cfg is None else upsample_cfg
        self.upsample_modules = build_stages(
            self.upsample_cfg, [self.out_channels] * (len(self.lateral_convs) - 1)
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Feature maps of the backbone, fine to coarse -> ``num_outs`` maps, fine to coarse."""
        check_channels("UpsampleFPN", inputs, self.in_channels)
        inputs = inputs[self.start_level : self.backbone_end_level]
        *laterals, coarsest = (conv(x) for conv, x in zip(self.lateral_convs, inputs, strict=True))
        levels = [*top_down(coarsest, laterals, self.upsample_modules), coarsest]
        outs = [conv(x) for conv, x in zip(self.fpn_convs, levels, strict=False)]
        append_extra_outs(self, outs, levels, inputs)
        return tuple(outs)
