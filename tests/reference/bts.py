"""BTS's decoder and local planar guidance, on a state dict, at a backbone's maps in eval mode.

Lee et al.: "From Big to Small: Multi-Scale Local Planar Guidance for Monocular Depth Estimation",
arXiv 1907.10326, section 3.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def intersect(normal: np.ndarray, distance: float, u: float, v: float) -> float:
    """Depth of the point where the ray through (u, v, 1) meets a plane.

    The plane is at ``distance`` from the camera along the unit vector ``normal``: the points
    distance * normal + s * a + t * b, with a and b across it. One of them is z * (u, v, 1).
    """
    axis = np.eye(3)[np.abs(normal).argmin()]
    a = np.cross(normal, axis)
    b = np.cross(normal, a)
    system = np.stack([np.array([u, v, 1.0]), -a, -b], axis=1)
    return np.linalg.solve(system, distance * normal)[0]


def planar_depth(planes: Tensor, k: int, size: tuple[int, int]) -> Tensor:
    """(B, 4, h, w) -> (B, 1, *size), pixel by pixel."""
    out = torch.zeros(planes.shape[0], 1, *size, dtype=torch.float64)
    for b, row, col in itertools.product(range(planes.shape[0]), *map(range, size)):
        *normal, distance = planes[b, :, row // k, col // k].tolist()
        u, v = ((n % k + 0.5) / k - 0.5 for n in (col, row))
        out[b, 0, row, col] = intersect(np.array(normal), distance, u, v)
    return out


def planes(logits: Tensor) -> Tensor:
    """(B, 3, h, w) -> (B, 4, h, w); the distance is a part of the greatest depth."""
    theta, phi, distance = (1 / (1 + (-logits.double()).exp())).unbind(1)
    theta, phi = theta * math.pi / 3, phi * 2 * math.pi
    normal = [theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()]
    return torch.stack([*normal, distance], dim=1)


def bts(
    maps: list[Tensor],
    state: dict[str, Tensor],
    max_depth: float,
    upsample: Callable[[int, Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """(B, 1, H, W) of the maps fine to coarse.

    ``upsample(stage, x, guide)`` is nearest interpolation unless given.
    """
    state = {name: value.double() for name, value in state.items() if value.is_floating_point()}
    *skips, x = [value.double() for value in maps]
    skips = skips[::-1]
    size = tuple(2 * n for n in skips[-1].shape[2:])
    upsample = upsample or nearest
    guidance: list[Tensor] = []
    x = x.clamp(min=0)
    for stage, skip in enumerate(skips):
        number = 5 - stage
        x = elu(conv(upsample(stage, x, skip), state, f"upconv{number}.0"))
        x = torch.cat([norm(x, state, f"bn{number}"), skip], dim=1)
        step = 2 ** (3 - stage)  # of image pixels to a pixel here, of the guidance before
        if stage == 1:
            dense = x
            x = norm(elu(conv(x, state, "conv4.0")), state, "bn4_2")
            x = aspp(x, dense, state)
        else:
            if guidance:
                rows, cols = (torch.arange(0, n, 2 * step) for n in size)
                x = torch.cat([x, guidance[-1][:, :, rows][:, :, :, cols]], dim=1)
            x = elu(conv(x, state, f"conv{number}.0"))
        if stage >= 1:
            k = 2 ** (4 - stage)
            guidance.append(planar_depth(planes(reduce(x, state, f"reduction{k}")), k, size))
    x = elu(conv(repeated(x), state, "upconv1.0"))
    last = 1 / (1 + (-reduce(x, state, "reduction1")).exp())
    x = elu(conv(torch.cat([x, last, *guidance[::-1]], dim=1), state, "conv1.0"))
    return max_depth / (1 + (-conv(x, state, "conv_depth")).exp())


def aspp(x: Tensor, dense: Tensor, state: dict[str, Tensor]) -> Tensor:
    outs = [x]
    for n, rate in enumerate((3, 6, 12, 18, 24)):
        name = f"aspp.branches.{n}"
        y = x
        if n:
            y = norm(torch.cat([dense, *outs[1:]], dim=1), state, f"{name}.0")
        y = conv(y.clamp(min=0), state, f"{name}.2")
        y = norm(y, state, f"{name}.3", eps=1e-5).clamp(min=0)
        outs.append(conv(y, state, f"{name}.5", rate))
    return elu(conv(torch.cat(outs, dim=1), state, "aspp.fuse.0"))


def reduce(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """All but the last of the convolutions there are have ELU after them."""
    layers = sorted(
        (key for key in state if key.startswith(f"{name}.")), key=lambda key: int(key.split(".")[1])
    )
    for number, key in enumerate(layers):
        x = conv(x, state, key.removesuffix(".weight"))
        if number < len(layers) - 1:
            x = elu(x)
    return x


def conv(x: Tensor, state: dict[str, Tensor], name: str, dilation: int = 1) -> Tensor:
    assert f"{name}.bias" not in state
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, padding=dilation * (weight.shape[2] // 2), dilation=dilation)


def norm(x: Tensor, state: dict[str, Tensor], name: str, eps: float = 1.1e-5) -> Tensor:
    names = ("running_mean", "running_var", "weight", "bias")
    mean, variance, weight, bias = (state[f"{name}.{n}"].reshape(1, -1, 1, 1) for n in names)
    return (x - mean) / (variance + eps).sqrt() * weight + bias


def elu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, x.exp() - 1)


def repeated(x: Tensor) -> Tensor:
    """Nearest interpolation, twice."""
    rows, cols = (torch.arange(2 * n) // 2 for n in x.shape[2:])
    return x[:, :, rows][:, :, :, cols]


def nearest(stage: int, x: Tensor, guide: Tensor) -> Tensor:
    """What every stage does unless it is told otherwise: cropped where the guide is odd."""
    height, width = guide.shape[2:]
    return repeated(x)[:, :, :height, :width]
