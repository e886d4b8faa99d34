"""Monocular depth estimation: DepthFormer and BTS with any upsampler, for mmseg's runtime."""
