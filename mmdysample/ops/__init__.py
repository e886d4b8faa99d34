"""Differentiable primitives that the upsamplers are written with: functions without parameters."""

from mmdysample.ops.local_similarity import local_similarity
from mmdysample.ops.point_sample import point_sample
from mmdysample.ops.reassemble import reassemble

__all__ = ["local_similarity", "point_sample", "reassemble"]
