"""Mask heads (Mask R-CNN, HTC, SCNet, QueryInst) with any upsampler before the last layer."""

from __future__ import annotations

from collections.abc import Mapping

from mmdet.models.roi_heads.mask_heads import (
    DynamicMaskHead,
    FCNMaskHead,
    HTCMaskHead,
    SCNetMaskHead,
)
from mmdet.registry import MODELS

from mmdysample.errors import InvalidValue
from mmdysample.registry import build_upsampler, get_upsampler, list_upsamplers
from mmdysample.upsamplers.base import Upsampler

# What FCNMaskHead builds itself. Its 'deconv' is a 2x2 transposed convolution with a ReLU.
_UPSTREAM_TYPES = (None, "deconv", "nearest", "bilinear", "carafe")


@MODELS.register_module()
class UpsampleFCNMaskHead(FCNMaskHead):
    """mmdet's FCNMaskHead with a configurable upsampler.

    Args:
        upsample_cfg: ``dict(type='DySample', ...)``: what enlarges the mask features of a region,
            twice unless ``scale_factor`` says otherwise. The names of FCNMaskHead ('deconv',
            'nearest', 'bilinear', 'carafe', None) mean what they mean there; None as a whole is
            FCNMaskHead's 'deconv'. As after FCNMaskHead's interpolations and CARAFE, nothing
            stands between the upsampler and the last layer.
        *args, **kwargs: as for mmdet's FCNMaskHead.

    State-dict names: ``upsample.*``, as in FCNMaskHead.

    Raises:
        ValueError: the upsampler is guided. A region's features are cut from one level of the
            pyramid, at the size that they have here: there is no finer feature to guide it.
    """

    def __init__(self, *args, upsample_cfg: dict | None = None, **kwargs) -> None:
        if upsample_cfg is None:
            upsample_cfg = dict(type="deconv", scale_factor=2)
        is_dict = isinstance(upsample_cfg, Mapping)
        if is_dict and upsample_cfg.get("type", "") in _UPSTREAM_TYPES:
            upsample_cfg = dict(scale_factor=2) | dict(upsample_cfg)
            super().__init__(*args, upsample_cfg=upsample_cfg, **kwargs)
            return
        settings = dict(upsample_cfg) if is_dict else upsample_cfg
        scale_factor = settings.pop("scale_factor", 2) if is_dict else 2
        plain = dict(type="nearest", scale_factor=scale_factor)
        super().__init__(*args, upsample_cfg=plain, **kwargs)
        channels = self.conv_logits.in_channels
        upsample = build_upsampler(settings, channels, scale_factor)
        if upsample.guided:
            unguided = [name for name in list_upsamplers() if not get_upsampler(name).guided]
            raise InvalidValue(
                f"{type(self).__name__} has no finer feature to guide {type(upsample).__name__}; "
                f"set upsample_cfg to an upsampler without a guide: {', '.join(unguided)}"
            )
        self.upsample = upsample
        self.upsample_cfg = settings
        self.upsample_method = type(upsample).__name__


@MODELS.register_module()
class UpsampleHTCMaskHead(UpsampleFCNMaskHead, HTCMaskHead):
    """mmdet's HTCMaskHead with a configurable upsampler.

    Args:
        upsample_cfg: as for `UpsampleFCNMaskHead`.
        *args, **kwargs: as for mmdet's HTCMaskHead.
    """


@MODELS.register_module()
class UpsampleSCNetMaskHead(UpsampleFCNMaskHead, SCNetMaskHead):
    """mmdet's SCNetMaskHead with a configurable upsampler.

    Args:
        upsample_cfg: as for `UpsampleFCNMaskHead`.
        **kwargs: as for mmdet's SCNetMaskHead.
    """


@MODELS.register_module()
class UpsampleDynamicMaskHead(UpsampleFCNMaskHead, DynamicMaskHead):
    """mmdet's DynamicMaskHead, that of QueryInst, with a configurable upsampler.

    Args:
        upsample_cfg: as for `UpsampleFCNMaskHead`.
        *args, **kwargs: as for mmdet's DynamicMaskHead.
    """

    def init_weights(self) -> None:
        """Initialize the weights: upstream's Xavier fills every layer, the upsampler's too."""
        super().init_weights()
        if isinstance(self.upsample, Upsampler):
            self.upsample.init_weights()
