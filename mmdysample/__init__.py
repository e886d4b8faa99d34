"""Learned feature upsamplers for PyTorch and OpenMMLab.

``import mmdysample`` needs torch alone. ``mmdysample.mmcv``, ``mmdysample.mmdet`` and
``mmdysample.mmseg`` bring the upsamplers into OpenMMLab's registries and models.
"""

from mmdysample.registry import build_upsampler, list_upsamplers, register_upsampler
from mmdysample.swap import find_upsampling, swap_upsampling
from mmdysample.upsamplers import *  # noqa: F403 - one import line per upsampler, in upsamplers/
from mmdysample.upsamplers import __all__ as _upsamplers
from mmdysample.version import __version__

__all__ = [
    "__version__",
    "build_upsampler",
    "find_upsampling",
    "list_upsamplers",
    "register_upsampler",
    "swap_upsampling",
    *_upsamplers,
]
