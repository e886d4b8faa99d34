"""mmseg's MaskFormer head, whose pixel decoder is built of upsamplers; it needs mmdet."""

from __future__ import annotations

from mmseg.models.decode_heads import MaskFormerHead
from mmseg.registry import MODELS

from mmdysample.mmdet.maskformer_head import with_upsamplers


@MODELS.register_module()
class UpsampleMaskFormerHead(MaskFormerHead):
    """mmseg's MaskFormerHead with a configurable upsampler at every stage of its pixel decoder.

    Args:
        pixel_decoder: as for MaskFormerHead: ``dict(type='mmdet.PixelDecoder', ...)`` or
            ``dict(type='mmdet.TransformerEncoderPixelDecoder', ...)``.
        upsample_cfg: as for :class:`mmdysample.mmdet.UpsampleMaskFormerHead`.
        **kwargs: as for MaskFormerHead.

    Raises:
        ValueError: ``pixel_decoder`` is of another type.
    """

    def __init__(self, *, pixel_decoder: dict, upsample_cfg: dict | None = None, **kwargs) -> None:
        super().__init__(pixel_decoder=pixel_decoder, **kwargs)
        self.pixel_decoder = with_upsamplers(self.pixel_decoder, pixel_decoder, upsample_cfg)
