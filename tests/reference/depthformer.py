"""DepthFormer's neck and head, written with functions on a state dict.

Sources: Li et al., "DepthFormer", 2022; DySample paper, section 4.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


def dense_depth_head(
    state: State, maps: Sequence[Tensor], upsample: Callable[[int, Tensor, Tensor], Tensor]
) -> Tensor:
    """What the last convolution gives, (B, 1, h, w).

    Args:
        maps: fine to coarse.
        upsample: (number of the stage, coarse to fine; its input; the map to reach) -> the result.
    """

    def conv(name: str, x: Tensor) -> Tensor:
        weight = state[name + ".weight"]
        return F.conv2d(x, weight, state[name + ".bias"], padding=weight.shape[-1] // 2)

    x = conv("conv_list.0.conv", maps[-1])
    for n in range(1, len(maps)):
        skip = maps[-1 - n]
        x = torch.cat([upsample(n - 1, x, skip), skip], dim=1)
        for name in ("convA", "convB"):
            x = conv(f"conv_list.{n}.{name}.conv", x)
            x = torch.where(x > 0, x, 0.01 * x)
    return conv("conv_depth", x)


def hahi_neck(
    state: State, maps: Sequence[Tensor], heads: int, points: int, attend: Callable
) -> list[Tensor]:
    """As evaluated: with the statistics of batch normalization, without dropout.

    Args:
        maps: fine to coarse, the stem's first.
        attend: as mmcv's `multi_scale_deformable_attn_pytorch`.
    """
    laterals = [conv_bn_relu(state, f"lateral_convs.{n}", x) for n, x in enumerate(maps)]
    stem, levels = laterals[0], laterals[1:]
    sizes = [tuple(level.shape[2:]) for level in levels]

    tokens, positions, centers = [], [], []
    for n, level in enumerate(levels):
        projected = conv_bn_relu(state, f"trans_proj.{n}", level)
        channels = projected.shape[1]
        for y in range(sizes[n][0]):
            for x in range(sizes[n][1]):
                tokens.append(projected[:, :, y, x])
                positions.append(position_of(y, x, channels) + state["level_embed"][n])
                centers.append(torch.tensor([(x + 0.5) / sizes[n][1], (y + 0.5) / sizes[n][0]]))
    tokens = torch.stack(tokens, dim=1)
    settings = dict(sizes=sizes, heads=heads, points=points, attend=attend)
    tokens = deformable_attention(
        state, "self_attn", tokens, torch.stack(positions), tokens, torch.stack(centers), **settings
    )

    height, width = stem.shape[2:]
    projected = conv_bn_relu(state, "conv_proj", stem)
    pixels = [(y, x) for y in range(height) for x in range(width)]
    query = torch.stack([projected[:, :, y, x] for y, x in pixels], dim=1)
    position = torch.stack([position_of(y, x, projected.shape[1]) for y, x in pixels])
    reference = position @ state["reference_points.weight"].T + state["reference_points.bias"]
    attended = deformable_attention(
        state, "multi_att", query, position, tokens, 1 / (1 + torch.exp(-reference)), **settings
    )
    attended = attended.transpose(1, 2).reshape(-1, projected.shape[1], height, width)
    outs = [conv_bn_relu(state, "conv_fusion", torch.cat([attended, stem], dim=1))]
    start = 0
    for n, (height, width) in enumerate(sizes):
        part = tokens[:, start : start + height * width]
        start += height * width
        part = part.transpose(1, 2).reshape(part.shape[0], -1, height, width)
        fused = torch.cat([levels[n], part], dim=1)
        outs.append(conv_bn_relu(state, f"trans_fusion.{n}", fused))
    return outs


def conv_bn_relu(state: State, name: str, x: Tensor) -> Tensor:
    weight = state[name + ".conv.weight"]
    x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    mean, variance, scale, shift = (
        state[f"{name}.bn.{key}"].view(1, -1, 1, 1)
        for key in ("running_mean", "running_var", "weight", "bias")
    )
    return ((x - mean) / (variance + 1e-5).sqrt() * scale + shift).clamp(min=0)


def position_of(row: int, column: int, channels: int) -> Tensor:
    """Half of the channels for the row, half for the column, which count from 1."""
    values = []
    for number in (row + 1, column + 1):
        for n in range(channels // 2):
            angle = number / 10000 ** (2 * (n // 2) / (channels // 2))
            values.append(math.cos(angle) if n % 2 else math.sin(angle))
    return torch.tensor(values)


def deformable_attention(
    state: State,
    name: str,
    query: Tensor,
    position: Tensor,
    tokens: Tensor,
    reference: Tensor,
    *,
    sizes: list[tuple[int, int]],
    heads: int,
    points: int,
    attend: Callable,
) -> Tensor:
    """Zhu et al., "Deformable DETR", 2021, equation 3, and the query itself."""

    def linear(part: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.{part}.weight"].T + state[f"{name}.{part}.bias"]

    batch, count, channels = query.shape
    value = linear("value_proj", tokens).view(batch, -1, heads, channels // heads)
    offsets = linear("sampling_offsets", query + position)
    offsets = offsets.view(batch, count, heads, len(sizes), points, 2)
    weights = linear("attention_weights", query + position)
    weights = weights.view(batch, count, heads, -1).softmax(-1)
    weights = weights.view(batch, count, heads, len(sizes), points)
    locations = torch.empty_like(offsets)
    for n, (height, width) in enumerate(sizes):
        for axis, extent in enumerate((width, height)):
            start = reference[None, :, None, None, axis]
            locations[:, :, :, n, :, axis] = start + offsets[:, :, :, n, :, axis] / extent
    out = attend(value, torch.tensor(sizes), locations, weights)
    return query + linear("output_proj", out)


def attend_by_loops(value: Tensor, sizes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """As mmcv's `multi_scale_deformable_attn_pytorch`; what lies outside of a map is 0."""
    batch, _, heads, channels = value.shape
    count, points = locations.shape[1], locations.shape[4]
    out = torch.zeros(batch, count, heads, channels)
    for b in range(batch):
        for q in range(count):
            for h in range(heads):
                start = 0
                for n, (height, width) in enumerate(sizes.tolist()):
                    for p in range(points):
                        x, y = locations[b, q, h, n, p].tolist()
                        x, y = x * width - 0.5, y * height - 0.5
                        for i in (math.floor(y), math.floor(y) + 1):
                            for j in (math.floor(x), math.floor(x) + 1):
                                if 0 <= i < height and 0 <= j < width:
                                    share = (1 - abs(y - i)) * (1 - abs(x - j))
                                    token = value[b, start + i * width + j, h]
                                    out[b, q, h] += weights[b, q, h, n, p] * share * token
                    start += height * width
    return out.flatten(2)
