"""Mask2Former's pixel decoder, whose top-down path is built of upsamplers."""

from __future__ import annotations

from collections.abc import Sequence

from mmdet.models.layers import MSDeformAttnPixelDecoder
from mmdet.models.task_modules.prior_generators import MlvlPointGenerator
from mmdet.registry import MODELS
from torch import Tensor

from mmdysample.mmdet.pixel_decoder import StandIn, TopDownPath, keep


@MODELS.register_module()
class UpsampleMSDeformAttnPixelDecoder(TopDownPath, MSDeformAttnPixelDecoder):
    """mmdet's MSDeformAttnPixelDecoder with a configurable upsampler.

    Its encoder takes the coarse levels; from the finest of these the top-down path climbs to the
    levels that are left: with Mask2Former's settings one stage, from stride 8 to 4. For mmdet's
    Mask2FormerHead, and with ``type='mmdet.UpsampleMSDeformAttnPixelDecoder'`` for mmseg's.

    Args:
        upsample_cfg: ``dict(type='DySample', ...)``: what every stage is built from. The guide of a
            stage is the lateral that its result is added to. None means mmdet's bilinear
            interpolation.
        *args, **kwargs: as for mmdet's MSDeformAttnPixelDecoder.

    State-dict names: ``upsample_modules.N`` is the stage whose result is added to lateral N.
    """

    interpolation = "Bilinear"

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        strides = self.strides[len(self.lateral_convs) :]
        self.without_path = StandIn(
            self,
            num_input_levels=self.num_encoder_levels,
            strides=strides,
            point_generator=MlvlPointGenerator(strides),
            mask_feature=keep,
        )

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Features of the backbone, fine to coarse -> mask feature (finest level), and the
        ``num_outs`` coarsest levels, coarse to fine."""
        encoded = feats[len(self.lateral_convs) :]
        y, outs = MSDeformAttnPixelDecoder.forward(self.without_path, encoded)
        outs = [*outs, *self.climb(y, feats)]
        return self.mask_feature(outs[-1]), outs[: self.num_outs]
