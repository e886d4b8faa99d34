"""Differentiable primitives that the upsamplers are written with: functions without parameters."""

from mmdysample.ops.point_sample import point_sample

__all__ = ["point_sample"]
