"""MaskFormer's pixel decoders, whose top-down path is built of upsamplers.

:class:`UpsampleMaskFormerHead` (maskformer_head.py) puts them in place of mmdet's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from mmdet.models.layers import PixelDecoder, TransformerEncoderPixelDecoder
from torch import Tensor

from mmdysample.hosts import build_stages, top_down


class TopDownPath:
    """Mixin before a pixel decoder of mmdet: the upsamplers, and the path that they are part of."""

    interpolation: ClassVar[str] = "Nearest"  # upstream's own

    def __init__(self, *args, upsample_cfg: dict | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.upsample_cfg = dict(type=self.interpolation) if upsample_cfg is None else upsample_cfg
        self.upsample_modules = build_stages(
            self.upsample_cfg, [self.mask_feature.in_channels] * len(self.lateral_convs)
        )

    def init_weights(self) -> None:
        """Initialize weights; upstream's method asks only the modules that it knows."""
        super().init_weights()
        for upsample in self.upsample_modules:
            upsample.init_weights()

    def climb(self, y: Tensor, feats: Sequence[Tensor]) -> list[Tensor]:
        """``y`` (B, C, H, W) of the level below the laterals -> maps of their levels, fine to
        coarse, and ``y``."""
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, feats, strict=False)]
        return [*top_down(y, laterals, self.upsample_modules, self.output_convs), y]


class UpsamplePixelDecoder(TopDownPath, PixelDecoder):
    """mmdet's PixelDecoder with a configurable upsampler at every stage of the top-down path.

    Args:
        upsample_cfg: ``dict(type='DySample', ...)``: what every stage is built from. The guide of a
            stage is the lateral that its result is added to. None means mmdet's nearest
            interpolation.
        *args, **kwargs: as for mmdet's PixelDecoder.

    State-dict names: ``upsample_modules.N`` is the stage whose result is added to lateral N.
    """

    def forward(
        self, feats: Sequence[Tensor], batch_img_metas: list[dict]
    ) -> tuple[Tensor, Tensor]:
        """Features of the backbone, fine to coarse -> mask feature (finest level), and the coarsest
        of the features."""
        y = self.last_feat_conv(feats[-1])
        return self.mask_feature(self.climb(y, feats)[0]), feats[-1]


class UpsampleTransformerEncoderPixelDecoder(TopDownPath, TransformerEncoderPixelDecoder):
    """mmdet's TransformerEncoderPixelDecoder with a configurable upsampler at every stage.

    Args:
        upsample_cfg: ``dict(type='DySample', ...)``, as for :class:`UpsamplePixelDecoder`.
        *args, **kwargs: as for mmdet's TransformerEncoderPixelDecoder.

    State-dict names: ``upsample_modules.N`` is the stage whose result is added to lateral N.
    """

    def forward(
        self, feats: Sequence[Tensor], batch_img_metas: list[dict]
    ) -> tuple[Tensor, Tensor]:
        """Features of the backbone, fine to coarse -> mask feature (finest level), and the memory:
        the coarsest of the features after the transformer's encoder, (B, C, h, w)."""
        memory = self.encode(feats[-1], batch_img_metas)
        y = self.encoder_out_proj(memory)
        return self.mask_feature(self.climb(y, feats)[0]), memory

    def encode(self, feat: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """(B, C_in, h, w) -> (B, C, h, w), all pixels of an image attending to each other."""
        padding = _padding_mask(feat, batch_img_metas)
        position = self.positional_encoding(padding).flatten(2).transpose(1, 2)
        feat = self.encoder_in_proj(feat)
        memory = self.encoder(
            query=feat.flatten(2).transpose(1, 2),
            query_pos=position,
            key_padding_mask=padding.flatten(1),
        )
        return memory.transpose(1, 2).reshape(feat.shape)


def _padding_mask(feat: Tensor, batch_img_metas: list[dict]) -> Tensor:
    """(B, h, w), True for the pixels of ``feat`` beyond the end of their image."""
    height, width = batch_img_metas[0]["batch_input_shape"]
    mask = feat.new_ones((feat.shape[0], 1, height, width), dtype=torch.float32)
    for n, meta in enumerate(batch_img_metas):
        height, width = meta["img_shape"]
        mask[n, :, :height, :width] = 0
    return F.interpolate(mask, size=feat.shape[-2:], mode="nearest").squeeze(1).bool()
