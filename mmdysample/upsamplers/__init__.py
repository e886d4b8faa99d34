"""Upsamplers, one paper a file. Importing a file here registers what it holds."""

from mmdysample.upsamplers.base import Upsampler
from mmdysample.upsamplers.dysample import DySample
from mmdysample.upsamplers.interpolation import Bilinear, Nearest

__all__ = ["Bilinear", "DySample", "Nearest", "Upsampler"]
