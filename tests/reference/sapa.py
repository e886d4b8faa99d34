"""SAPA, every variant.

Lu et al.: "SAPA: Similarity-Aware Point Affiliation for Feature Upsampling", NeurIPS 2022, Eq. (3)
and section 4.2.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from tests.reference.pixelwise import sigmoid, softmax, weighted_windows, window


def divided(h: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda similarity: h(similarity) / (h(similarity).sum() + 1e-6)


NORMALIZATIONS = {
    "exp": softmax,
    "relu": divided(lambda t: t.clamp(min=0)),
    "sigmoid": divided(sigmoid),
    "softplus": divided(lambda t: (1 + t.exp()).log()),
    "none": lambda t: t,
}


def sapa(
    x: Tensor,
    guide: Tensor,
    state: dict[str, Tensor],
    variant: str,
    *,
    scale_factor: int = 2,
    kernel_size: int = 5,
    normalization: str = "exp",
    normalize_self: bool = False,
    norm: str = "layer",
) -> Tensor:
    s = scale_factor
    x, guide = x.double(), guide.double()
    normalize = dict(layer=layer_norm, group=group_norm)[norm]
    normal_x = normalize(x, state["norm_x.weight"], state["norm_x.bias"])
    normal_y = normalize(guide, state["norm_y.weight"], state["norm_y.bias"])
    key = normal_x if variant == "i" else linear(normal_x, state, "k")
    kernel = torch.zeros(x.shape[0], kernel_size**2, *guide.shape[2:], dtype=torch.float64)
    for b, row, col in itertools.product(range(x.shape[0]), *map(range, guide.shape[2:])):
        r, c = row // s, col // s
        pixel_y = normal_y[b : b + 1, :, row : row + 1, col : col + 1]
        pixel_x = normal_x[b : b + 1, :, r : r + 1, c : c + 1]
        raw_x = x[b : b + 1, :, r : r + 1, c : c + 1]
        if variant == "i":
            query = pixel_y
        elif variant == "b":
            query = linear(pixel_y, state, "q")
        else:
            from_y = linear(pixel_y, state, "q_y")
            from_x = linear(pixel_x if normalize_self else raw_x, state, "q_x")
            if variant == "p":
                query = from_y + from_x
            else:
                gate = sigmoid(linear(pixel_x, state, "gate"))
                query = gate * from_y + (1 - gate) * from_x
        # Keys outside the map are zero, so their similarity is: it takes part below.
        similarity = window(key[b], r, c, kernel_size) @ query.flatten()
        kernel[b, :, row, col] = NORMALIZATIONS[normalization](similarity)
    return weighted_windows(x, kernel, s)


def linear(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """On the channels of (B, C, H, W)."""
    weight, bias = state[f"{name}.weight"].double(), state[f"{name}.bias"].double()
    return torch.einsum("oc,bchw->bohw", weight, x) + bias.reshape(1, -1, 1, 1)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Over the channels of (B, C, H, W)."""
    out = torch.zeros_like(x)
    for b, row, col in itertools.product(range(x.shape[0]), *map(range, x.shape[2:])):
        pixel = x[b, :, row, col]
        variance = ((pixel - pixel.mean()) ** 2).mean()
        normal = (pixel - pixel.mean()) / (variance + 1e-5).sqrt()
        out[b, :, row, col] = normal * weight.double() + bias.double()
    return out


def group_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Over each of 32 groups of channels of a sample of (B, C, H, W)."""
    out = torch.zeros_like(x)
    size = x.shape[1] // 32
    for b, group in itertools.product(range(x.shape[0]), range(32)):
        channels = slice(group * size, (group + 1) * size)
        part = x[b, channels]
        variance = ((part - part.mean()) ** 2).mean()
        normal = (part - part.mean()) / (variance + 1e-5).sqrt()
        out[b, channels] = (
            normal * weight[channels, None, None].double() + bias[channels, None, None].double()
        )
    return out
