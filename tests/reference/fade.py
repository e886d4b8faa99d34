"""FADE, in the two forms of its semi-shift convolution.

Lu, Liu, Fu, Cao: "FADE: Fusing the Assets of Decoder and Encoder for Task-Agnostic Upsampling",
ECCV 2022.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.reference.pixelwise import convolve, sigmoid, softmax, weighted_windows


def fade(x: Tensor, guide: Tensor, state: dict[str, Tensor], scale_factor: int = 2) -> Tensor:
    """Gated if ``state`` has a gate, Lite if theta is depthwise, aligned if there is an aligner."""
    s = scale_factor
    logits = low_to_high(x, guide, state, s)
    kernel = softmax(logits.permute(0, 2, 3, 1)[..., None, :])[..., 0, :].permute(0, 3, 1, 2)
    out = weighted_windows(x, kernel, s)
    if "gate.weight" not in state:
        return out
    guide = guide.double()
    if "aligner.weight" in state:
        guide = convolve(guide, state["aligner.weight"], state["aligner.bias"])
    gate = sigmoid(convolve(x, state["gate.weight"], state["gate.bias"]))
    for b, row, col in itertools.product(range(x.shape[0]), *map(range, out.shape[2:])):
        g = gate[b, 0, row // s, col // s]
        out[b, :, row, col] = g * guide[b, :, row, col] + (1 - g) * out[b, :, row, col]
    return out


def low_to_high(x: Tensor, guide: Tensor, state: dict[str, Tensor], scale_factor: int) -> Tensor:
    """Each fine pixel: theta around it in E y, plus theta around its cell in D x, b in both."""
    s = scale_factor
    theta, b = dense(state["theta.weight"]), state["theta.bias"]
    fine = convolve(convolve(guide, state["E.weight"], state["E.bias"]), theta, b, padding=1)
    coarse = convolve(convolve(x, state["D.weight"]), theta, b, padding=1)
    for row, col in itertools.product(*map(range, fine.shape[2:])):
        fine[:, :, row, col] += coarse[:, :, row // s, col // s]
    return fine


def high_to_low(x: Tensor, guide: Tensor, state: dict[str, Tensor]) -> Tensor:
    """The other form, s = 2: all at low resolution, from four shifts of E y by one pixel.

    Sub-pixel (i, j) of all cells is a convolution of E y with stride 2, started i rows and j
    columns later. The four results, D's added to each, are interleaved; in their channels the shift
    is the slow index.
    """
    theta, b = dense(state["theta.weight"]).double(), state["theta.bias"].double()
    encoder = F.conv2d(guide.double(), state["E.weight"].double(), state["E.bias"].double())
    decoder = F.conv2d(x.double(), state["D.weight"].double())
    coarse = F.conv2d(decoder, theta, b, padding=1)
    padded = F.pad(encoder, (1, 1, 1, 1))
    shifts = []
    for i, j in itertools.product(range(2), repeat=2):
        shifted = padded[:, :, i : i + 2 * x.shape[2] + 1, j : j + 2 * x.shape[3] + 1]
        shifts.append(F.conv2d(shifted, theta, b, stride=2) + coarse)
    batch, taps, height, width = coarse.shape
    regrouped = torch.cat(shifts, dim=1).reshape(batch, 4, taps, height, width)
    return F.pixel_shuffle(regrouped.transpose(1, 2).flatten(1, 2), 2)


def dense(theta: Tensor) -> Tensor:
    """A depthwise kernel, (K*K, 1, 3, 3), as one with zeros between channels."""
    if theta.shape[1] > 1:
        return theta
    return torch.diag_embed(theta[:, 0].permute(1, 2, 0)).permute(2, 3, 0, 1)
