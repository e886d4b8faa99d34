"""Monocular depth estimation: DepthFormer and BTS with any upsampler, for mmseg's runtime."""

from mmdysample.mmseg.depth.bts_head import BTSHead
from mmdysample.mmseg.depth.metric import DepthErrorMetric
from mmdysample.mmseg.depth.scale_invariant_loss import ScaleInvariantLoss
from mmdysample.mmseg.depth.transforms import DepthColorAug, NYUCrop
from mmdysample.mmseg.depth.visualizer import DepthLocalVisualizer

__all__ = [
    "BTSHead",
    "DepthColorAug",
    "DepthErrorMetric",
    "DepthLocalVisualizer",
    "NYUCrop",
    "ScaleInvariantLoss",
]
