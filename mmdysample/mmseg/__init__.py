"""Hosts for mmseg: ``custom_imports = dict(imports=['mmdysample.mmseg'])`` in a config.

mmseg's MaskFormer and Mask2Former are mmdet's: where mmdet is installed this import brings mmdet's
hosts too (``type='mmdet.UpsampleMSDeformAttnPixelDecoder'``). mmseg's other models do not need it.
"""

from importlib.util import find_spec

try:
    import mmseg  # noqa: F401 - only to say what is missing
except ImportError as error:
    raise ImportError(
        f"mmdysample.mmseg needs mmsegmentation 1.x: pip install 'mmdysample[mmseg]' ({error})"
    ) from error

import mmdysample.mmcv
from mmdysample.mmseg.boundary_iou import BoundaryIoUMetric
from mmdysample.mmseg.depth import BTSHead, DenseDepthHead
from mmdysample.mmseg.fpn import UpsampleFPN
from mmdysample.mmseg.matting import MattingHead
from mmdysample.mmseg.resnet import StemResNet
from mmdysample.mmseg.segformer_head import UpsampleSegformerHead
from mmdysample.mmseg.segnet import SegNetHead
from mmdysample.mmseg.uper_head import UpsampleUPerHead

if find_spec("mmdet") is not None:
    import mmdysample.mmdet  # registers its hosts
    import mmdysample.mmseg.maskformer_head  # noqa: F401 - likewise

# The hosts, and what is of no sub-package; those have an `__all__` of their own.
__all__ = [
    "BTSHead",
    "BoundaryIoUMetric",
    "DenseDepthHead",
    "MattingHead",
    "SegNetHead",
    "StemResNet",
    "UpsampleFPN",
    "UpsampleSegformerHead",
    "UpsampleUPerHead",
]
