"""The window products in PyTorch's basic operators, one tap of the windows at a time.

Slower than :mod:`pytorch.window_tiles`, and for exporters, torch.func and forward-mode
differentiation, which follow basic operators only; also the exact form where a value is not finite.
What autograd keeps of it are views of the maps (copies only where a map's dtype is not the one of
the sums). Another term of the result's size, in float32 or float64, is held while it is added.

:mod:`window_autograd` says what the products are; ``dtype`` is that of the result.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdysample.ops.checks import Window
from mmdysample.ops.precision import accumulation_dtype


def weighted_sum(coarse: Tensor, kernel: Tensor, window: Window, dtype: torch.dtype) -> Tensor:
    batch, channels, height, width = coarse.shape
    k, s, g = window
    accumulate = accumulation_dtype(coarse, kernel)
    padded = F.pad(coarse.to(accumulate), [k // 2] * 4)
    kernel = kernel.to(accumulate).reshape(batch, g, k * k, height, s, width, s)
    out = None
    for tap in range(k * k):
        i, j = divmod(tap, k)
        near = padded[:, :, i : i + height, j : j + width]
        near = near.reshape(batch, g, channels // g, height, 1, width, 1)
        term = kernel[:, :, tap].unsqueeze(2) * near
        out = term if out is None else out + term
    return out.reshape(batch, channels, s * height, s * width).to(dtype)


def inner_product(pixels: Tensor, coarse: Tensor, window: Window, dtype: torch.dtype) -> Tensor:
    batch, channels, height, width = coarse.shape
    k, s, g = window
    accumulate = accumulation_dtype(pixels, coarse)
    padded = F.pad(coarse.to(accumulate), [k // 2] * 4)
    pixels = pixels.to(accumulate).reshape(batch, g, channels // g, height, s, width, s)
    taps = []
    for tap in range(k * k):
        i, j = divmod(tap, k)
        near = padded[:, :, i : i + height, j : j + width]
        near = near.reshape(batch, g, channels // g, height, 1, width, 1)
        taps.append((pixels * near).sum(2))
    return torch.stack(taps, 2).reshape(batch, g * k * k, s * height, s * width).to(dtype)


def scattered_sum(pixels: Tensor, kernel: Tensor, window: Window, dtype: torch.dtype) -> Tensor:
    batch, channels = pixels.shape[:2]
    k, s, g = window
    height, width = pixels.shape[2] // s, pixels.shape[3] // s
    accumulate = accumulation_dtype(pixels, kernel)
    pixels = pixels.to(accumulate).reshape(batch, g, channels // g, height, s, width, s)
    kernel = kernel.to(accumulate).reshape(batch, g, k * k, height, s, width, s)
    out = None
    for tap in range(k * k):
        i, j = divmod(tap, k)
        term = (kernel[:, :, tap].unsqueeze(2) * pixels).sum((4, 6))
        term = F.pad(term.reshape(batch, channels, height, width), (j, k - 1 - j, i, k - 1 - i))
        out = term if out is None else out + term
    half = k // 2
    return out[:, :, half : half + height, half : half + width].to(dtype)
