"""IndexNet, holistic (HIN) and depthwise many-to-one (M2O), in evaluation mode.

Lu et al.: "Indices Matter: Learning to Index for Deep Image Matting", ICCV 2019.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from tests.reference.pixelwise import convolve, sigmoid


def branch(guide: Tensor, state: dict[str, Tensor], prefix: str) -> Tensor:
    """4x4 convolution with stride 2, batch normalisation, ReLU6, 1x1 convolution."""
    hidden = convolve(guide, state[prefix + "0.weight"], stride=2, padding=1)
    mean, variance, weight, bias = (
        state[f"{prefix}1.{name}"].double().reshape(1, -1, 1, 1)
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    hidden = (hidden - mean) / (variance + 1e-5).sqrt() * weight + bias
    return convolve(hidden.clamp(0, 6), state[prefix + "3.weight"])


def indexnet(x: Tensor, guide: Tensor, state: dict[str, Tensor], variant: str) -> Tensor:
    if variant == "hin":
        logits = branch(guide, state, "index.")
    else:
        branches = [branch(guide, state, f"index.{n}.") for n in range(4)]
    out = torch.zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3], dtype=torch.float64)
    for b, c, row, col in itertools.product(*map(range, out.shape)):
        sub = (row % 2) * 2 + col % 2
        cell = (b, sub if variant == "hin" else c, row // 2, col // 2)
        index = sigmoid(logits[cell] if variant == "hin" else branches[sub][cell])
        out[b, c, row, col] = index * x[b, c, row // 2, col // 2].double()
    return out
