"""MaskFormer's head, whose pixel decoder is built of upsamplers."""

from __future__ import annotations

from mmdet.models.dense_heads import MaskFormerHead
from mmdet.models.layers import PixelDecoder, TransformerEncoderPixelDecoder
from mmdet.registry import MODELS
from torch import nn

from mmdysample.errors import InvalidValue
from mmdysample.mmdet.pixel_decoder import (
    UpsamplePixelDecoder,
    UpsampleTransformerEncoderPixelDecoder,
)

HOSTS = {
    PixelDecoder: UpsamplePixelDecoder,
    TransformerEncoderPixelDecoder: UpsampleTransformerEncoderPixelDecoder,
}


def with_upsamplers(decoder: nn.Module, settings: dict, upsample_cfg: dict | None) -> nn.Module:
    """The host for a pixel decoder of mmdet that a head has built.

    The head asks for the exact type of the decoder to learn whether the memory comes straight from
    the backbone, and if so builds ``decoder_input_proj``; so it is given mmdet's own first.

    Args:
        decoder: what the head has built from ``settings``.
        settings: its config.
        upsample_cfg: what every stage is built from.

    Raises:
        ValueError: there is no host for this decoder.
    """
    host = HOSTS.get(type(decoder))
    if host is None:
        raise InvalidValue(
            f"UpsampleMaskFormerHead takes a pixel_decoder of type "
            f"{' or '.join(kind.__name__ for kind in HOSTS)}, got {type(decoder).__name__}"
        )
    settings = {key: value for key, value in settings.items() if key != "type"}
    return host(**settings, upsample_cfg=upsample_cfg)


@MODELS.register_module()
class UpsampleMaskFormerHead(MaskFormerHead):
    """mmdet's MaskFormerHead with a configurable upsampler at every stage of its pixel decoder.

    Args:
        pixel_decoder: as for MaskFormerHead; a PixelDecoder or a TransformerEncoderPixelDecoder.
        upsample_cfg: ``dict(type='DySample', ...)``: what every stage is built from. The guide of a
            stage is the lateral that its result is added to. None means mmdet's nearest
            interpolation.
        *args, **kwargs: as for MaskFormerHead.

    State-dict names: ``pixel_decoder.upsample_modules.N`` is the stage whose result is added to
    lateral N.

    Raises:
        ValueError: ``pixel_decoder`` is of another type.
    """

    def __init__(
        self, *args, pixel_decoder: dict, upsample_cfg: dict | None = None, **kwargs
    ) -> None:
        super().__init__(*args, pixel_decoder=pixel_decoder, **kwargs)
        # The head has completed the config by the channels.
        self.pixel_decoder = with_upsamplers(self.pixel_decoder, pixel_decoder, upsample_cfg)
