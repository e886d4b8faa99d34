"""SegNet written a second time: functions of the state dict, stage by stage, without modules.

Badrinarayanan, Kendall, Cipolla: "SegNet", TPAMI 2017, section 3; names of parameters as
torchvision's VGG with batch normalization (``features.N``) and as mmcv's ConvModule.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5


def encoder(image: Tensor, state: dict[str, Tensor], num_convs: Sequence[int]) -> list[Tensor]:
    """The maps before the pools, fine to coarse, and the last pooled one."""
    outs = []
    x, index = image, 0
    for convs in num_convs:
        for _ in range(convs):
            x = _normalized(x, state, f"features.{index}", f"features.{index + 1}")
            index += 3  # convolution, normalization, ReLU
        outs.append(x)
        x = max_pool(x)
        index += 1
    return [*outs, x]


def decoder(
    maps: Sequence[Tensor],
    state: dict[str, Tensor],
    num_convs: Sequence[int],
    upsample: Callable[[int, Tensor, Tensor], Tensor],
) -> Tensor:
    """``upsample(N, x, guide)`` is the upsampler of stage N, 0 for the coarsest."""
    *guides, x = maps
    for stage, (convs, guide) in enumerate(zip(reversed(num_convs), reversed(guides), strict=True)):
        x = upsample(stage, x, guide)
        for n in range(convs):
            name = f"stages.{stage}.{n}"
            x = _normalized(x, state, f"{name}.conv", f"{name}.bn")
    return F.conv2d(x, state["conv_seg.weight"], state["conv_seg.bias"])


def max_pool(x: Tensor) -> Tensor:
    """2x2, without the last row or column of an odd map."""
    height, width = (length // 2 * 2 for length in x.shape[2:])
    cells = [x[:, :, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]
    return torch.stack(cells).amax(0)


def max_unpool(x: Tensor, guide: Tensor) -> Tensor:
    """In loops: each value goes to the first largest pixel of its 2x2 window of the guide."""
    out = torch.zeros_like(guide)
    for b, c, row, col in itertools.product(*map(range, x.shape)):
        window = [(2 * row + i, 2 * col + j) for i in (0, 1) for j in (0, 1)]
        values = [guide[b, c, i, j].item() for i, j in window]
        out[(b, c, *window[values.index(max(values))])] = x[b, c, row, col]
    return out


def _normalized(x: Tensor, state: dict[str, Tensor], conv: str, norm: str) -> Tensor:
    """3x3 convolution, batch normalization as in evaluation, ReLU."""
    x = F.conv2d(x, state[f"{conv}.weight"], state.get(f"{conv}.bias"), padding=1)
    mean, var, weight, bias = (
        state[f"{norm}.{name}"][:, None, None]
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    return torch.clamp((x - mean) / torch.sqrt(var + EPS) * weight + bias, min=0)
