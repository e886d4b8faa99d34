"""What the references of the kernel-based upsamplers share: loops over pixels, in float64.

At a pixel, channels are a vector: products of matrices and vectors stand for the loops over them.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0
) -> Tensor:
    """(B, C, H, W) by (out, C, k, k) -> (B, out, H', W'), zeros around the map."""
    x, weight = x.double(), weight.double()
    out_channels, channels, k, _ = weight.shape
    batch, _, height, width = x.shape
    padded = torch.zeros(
        batch, channels, height + 2 * padding, width + 2 * padding, dtype=torch.float64
    )
    padded[:, :, padding : padding + height, padding : padding + width] = x
    size = [(n + 2 * padding - k) // stride + 1 for n in (height, width)]
    out = torch.zeros(batch, out_channels, *size, dtype=torch.float64)
    for b, row, col in itertools.product(range(batch), *map(range, size)):
        top, left = stride * row, stride * col
        seen = padded[b, :, top : top + k, left : left + k]
        out[b, :, row, col] = weight.flatten(1) @ seen.flatten()
        if bias is not None:
            out[b, :, row, col] += bias.double()
    return out


def window(image: Tensor, row: int, col: int, kernel_size: int) -> Tensor:
    """(C, H, W) -> (K*K, C): the pixels around (row, col), row by row, zeros outside the map."""
    reach = kernel_size // 2
    channels, height, width = image.shape
    pixels = []
    for i, j in itertools.product(range(-reach, reach + 1), repeat=2):
        inside = 0 <= row + i < height and 0 <= col + j < width
        pixels.append(image[:, row + i, col + j] if inside else image.new_zeros(channels))
    return torch.stack(pixels).double()


def weighted_windows(x: Tensor, kernel: Tensor, scale_factor: int) -> Tensor:
    """Sum the K*K window of each output pixel's cell with its kernel, (B, K*K, s*H, s*W)."""
    s, kernel_size = scale_factor, round(kernel.shape[1] ** 0.5)
    out = torch.zeros(*x.shape[:2], *kernel.shape[2:], dtype=torch.float64)
    for b, row, col in itertools.product(range(x.shape[0]), *map(range, kernel.shape[2:])):
        seen = window(x[b].double(), row // s, col // s, kernel_size)
        out[b, :, row, col] = kernel[b, :, row, col] @ seen
    return out


def softmax(logits: Tensor) -> Tensor:
    """Over the last axis."""
    powers = (logits - logits.max()).exp()
    return powers / powers.sum(-1, keepdim=True)


def sigmoid(logits: Tensor) -> Tensor:
    return 1 / (1 + (-logits).exp())
