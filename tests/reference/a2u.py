"""A2U, 'dynamic-cs-d'.

Dai, Lu, Shen: "Learning Affinity-Aware Upsampling for Deep Image Matting", CVPR 2021.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from tests.reference.pixelwise import convolve, sigmoid, softmax, weighted_windows


def a2u(x: Tensor, guide: Tensor, state: dict[str, Tensor]) -> Tensor:
    samples = zip(x.split(1), guide.double().split(1), strict=True)
    return torch.cat([_sample(one_x, one_guide, state) for one_x, one_guide in samples])


def _sample(x: Tensor, guide: Tensor, state: dict[str, Tensor]) -> Tensor:
    channels = guide.shape[1]
    affinity = torch.zeros(x.shape[2:], dtype=torch.float64)
    parts = []
    for name in "UV":
        kernel = convolve(pool(guide), state[f"{name}.weight"], state[f"{name}.bias"])
        one_by_one = guide.transpose(0, 1)  # every channel sees the same kernel
        convolved = convolve(one_by_one, kernel, stride=2, padding=2)[:, 0]
        norm = f"norm_{name.lower()}"
        normal = group_norm(convolved, state[f"{norm}.weight"], state[f"{norm}.bias"])
        parts.append(torch.where(normal > 0, normal, 0.01 * normal))
    for c in range(channels):
        affinity += parts[0][c] * parts[1][c] / math.sqrt(channels)

    mean = guide.mean((2, 3), keepdim=True)
    p = convolve(mean, state["P.weight"], state["P.bias"]).flatten()
    kernel = torch.zeros(1, 9, 2 * x.shape[2], 2 * x.shape[3], dtype=torch.float64)
    for row, col in itertools.product(*map(range, kernel.shape[2:])):
        sub = (row % 2) * 2 + col % 2
        kernel[0, :, row, col] = softmax(sigmoid(affinity[row // 2, col // 2] * p[sub::4]))
    return weighted_windows(x, kernel, 2)


def pool(guide: Tensor) -> Tensor:
    """Adaptive average pooling to 6x6."""
    out = torch.zeros(*guide.shape[:2], 6, 6, dtype=torch.float64)
    height, width = guide.shape[2:]
    for i, j in itertools.product(range(6), repeat=2):
        rows = slice(i * height // 6, math.ceil((i + 1) * height / 6))
        columns = slice(j * width // 6, math.ceil((j + 1) * width / 6))
        out[:, :, i, j] = guide[:, :, rows, columns].mean((2, 3))
    return out


def group_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(C, H, W), in 32 groups of consecutive channels."""
    size = x.shape[0] // 32
    out = torch.zeros_like(x)
    for c in range(x.shape[0]):
        group = x[c // size * size : (c // size + 1) * size]
        variance = ((group - group.mean()) ** 2).mean()
        normal = (x[c] - group.mean()) / (variance + 1e-5).sqrt()
        out[c] = normal * weight[c].double() + bias[c].double()
    return out
