"""Upsamplers, one paper per file. Importing a file here registers what it holds."""

from mmdysample.upsamplers.a2u import A2U
from mmdysample.upsamplers.base import Upsampler
from mmdysample.upsamplers.carafe import CARAFE
from mmdysample.upsamplers.convolution import Deconv, PixelShuffle
from mmdysample.upsamplers.dysample import DySample
from mmdysample.upsamplers.fade import FADE
from mmdysample.upsamplers.indexnet import IndexNet
from mmdysample.upsamplers.interpolation import Bilinear, Nearest
from mmdysample.upsamplers.sapa import SAPA

__all__ = [
    "A2U",
    "CARAFE",
    "FADE",
    "SAPA",
    "Bilinear",
    "Deconv",
    "DySample",
    "IndexNet",
    "Nearest",
    "PixelShuffle",
    "Upsampler",
]
