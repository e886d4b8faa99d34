"""Monocular depth estimation: DepthFormer and BTS with any upsampler, for mmseg's runtime."""

from mmdysample.mmseg.depth.bts_head import BTSHead
from mmdysample.mmseg.depth.scale_invariant_loss import ScaleInvariantLoss

__all__ = ["BTSHead", "ScaleInvariantLoss"]
