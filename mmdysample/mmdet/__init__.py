"""Hosts for mmdet: ``custom_imports = dict(imports=['mmdysample.mmdet'])`` in a config."""

try:
    import mmdet  # noqa: F401 - only to say what is missing
except ImportError as error:
    raise ImportError(
        f"mmdysample.mmdet needs mmdet 3.x: pip install 'mmdysample[mmdet]' ({error})"
    ) from error

import mmdysample.mmcv  # noqa: F401 - registers the upsamplers
from mmdysample.mmdet.fcn_mask_head import (
    UpsampleDynamicMaskHead,
    UpsampleFCNMaskHead,
    UpsampleHTCMaskHead,
    UpsampleSCNetMaskHead,
)
from mmdysample.mmdet.fpn import UpsampleFPN
from mmdysample.mmdet.maskformer_head import UpsampleMaskFormerHead
from mmdysample.mmdet.msdeformattn_pixel_decoder import UpsampleMSDeformAttnPixelDecoder
from mmdysample.mmdet.panoptic import (
    LoadPanopticSegments,
    PanopticLocalVisualizer,
    PanopticQualityMetric,
)

__all__ = [
    "LoadPanopticSegments",
    "PanopticLocalVisualizer",
    "PanopticQualityMetric",
    "UpsampleDynamicMaskHead",
    "UpsampleFCNMaskHead",
    "UpsampleFPN",
    "UpsampleHTCMaskHead",
    "UpsampleMSDeformAttnPixelDecoder",
    "UpsampleMaskFormerHead",
    "UpsampleSCNetMaskHead",
]
