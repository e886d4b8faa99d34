"""Learned upsamplers in any existing model, by one call.

dry_run.py   runs a model on example images and notes its calls of `F.interpolate`
sites.py     what of them can be swapped, and why the others are kept
swap.py      `find_upsampling` and `swap_upsampling`
redirect.py  what a swapped model runs
"""

from mmdysample.swap.sites import Site, UpsamplingSites
from mmdysample.swap.swap import find_upsampling, swap_upsampling

__all__ = ["Site", "UpsamplingSites", "find_upsampling", "swap_upsampling"]
