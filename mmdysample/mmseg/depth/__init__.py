"""Monocular depth estimation: DepthFormer and BTS with any upsampler, for mmseg's runtime."""

from mmdysample.mmseg.depth.bts_head import BTSHead
from mmdysample.mmseg.depth.dense_depth_head import DenseDepthHead
from mmdysample.mmseg.depth.depth_head import DepthHead
from mmdysample.mmseg.depth.depthformer_swin import DepthFormerSwin
from mmdysample.mmseg.depth.hahi_neck import HAHINeck
from mmdysample.mmseg.depth.metric import DepthErrorMetric
from mmdysample.mmseg.depth.scale_invariant_loss import ScaleInvariantLoss
from mmdysample.mmseg.depth.transforms import DepthColorAug, NYUCrop
from mmdysample.mmseg.depth.visualizer import DepthLocalVisualizer

__all__ = [
    "BTSHead",
    "DenseDepthHead",
    "DepthColorAug",
    "DepthErrorMetric",
    "DepthFormerSwin",
    "DepthHead",
    "DepthLocalVisualizer",
    "HAHINeck",
    "NYUCrop",
    "ScaleInvariantLoss",
]
