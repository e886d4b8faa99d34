"""The matting network of A2U written a second time, as functions of a state dict.

Written from the description of its layers: no module of the library takes part. Upsampling is
bilinear (align_corners=False).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def matting_network(state: State, image: Tensor, blocks: list[int], training: bool) -> Tensor:
    """Alpha (B, 1, H, W) of an image and its trimap (B, 4, H, W).

    Args:
        state: names of A2UMatting.
        image: the input.
        blocks: residual blocks of the encoder's three layers.
        training: whether batch normalization takes the statistics of the batch.
    """

    def conv(name: str, x: Tensor, **settings) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], **settings)

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        if training:
            mean = x.mean(dim=(0, 2, 3))
            var = ((x - mean[:, None, None]) ** 2).mean(dim=(0, 2, 3))
        scale = state[f"{name}.weight"] / (var + 1e-5) ** 0.5
        return (x - mean[:, None, None]) * scale[:, None, None] + (
            state[f"{name}.bias"][:, None, None]
        )

    def activated(name: str, x: Tensor, **settings) -> Tensor:
        """A layer with normalization and activation."""
        return leaky(norm(f"{name}.bn", conv(f"{name}.conv", x, **settings)))

    def residual_block(name: str, x: Tensor, pooled: bool = False) -> tuple[Tensor, Tensor]:
        inner = leaky(norm(f"{name}.bn1", conv(f"{name}.conv1", x, padding=1)))
        y = halve(inner) if pooled else inner
        y = norm(f"{name}.bn2", conv(f"{name}.conv2", y, padding=1))
        if f"{name}.downsample.0.weight" in state:
            every = 2 if pooled else 1
            x = conv(f"{name}.downsample.0", x[:, :, ::every, ::every])
            x = norm(f"{name}.downsample.1", x)
        return leaky(y + x), inner

    # encoder
    l0 = leaky(norm("backbone.bn1", conv("backbone.conv1", image, padding=3)))
    l0p = halve(l0)
    x = halve(l0p)
    for n in range(blocks[0]):
        x, _ = residual_block(f"backbone.layer1.{n}", x)
    l1 = x
    x, l10 = residual_block("backbone.layer2.0", x, pooled=True)
    for n in range(1, blocks[1]):
        x, _ = residual_block(f"backbone.layer2.{n}", x)
    l2 = x
    x, l20 = residual_block("backbone.layer3.0", x, pooled=True)
    for n in range(1, blocks[2]):
        x, _ = residual_block(f"backbone.layer3.{n}", x)

    # atrous spatial pyramid pooling
    aspp = "decode_head.aspp"
    branches = [activated(f"{aspp}.branches.0", x)]
    for n, dilation in ((1, 6), (2, 12), (3, 18)):
        name, settings = f"{aspp}.branches.{n}", dict(padding=dilation, dilation=dilation)
        y = activated(f"{name}.depthwise_conv", x, groups=x.shape[1], **settings)
        branches.append(activated(f"{name}.pointwise_conv", y))
    mean = x.mean(dim=(2, 3), keepdim=True)
    branches.append(activated(f"{aspp}.image_conv", mean).expand_as(branches[0]))
    x = activated(f"{aspp}.fusion", torch.cat(branches, 1))

    # decoder
    for n, (guide, skip) in enumerate([(l20, l2), (l10, l1), (l0p, l0p), (l0, image)]):
        x = F.interpolate(x, size=guide.shape[2:], mode="bilinear", align_corners=False)
        x = x + activated(f"decode_head.shorts.{n}", skip, padding=1)
        for block in range(2):
            x, _ = residual_block(f"decode_head.stages.{n}.{block}", x)
    x = activated("decode_head.prediction.0", x, padding=1)
    return conv("decode_head.prediction.1", x, padding=1)


def leaky(x: Tensor) -> Tensor:
    return torch.where(x >= 0, x, 0.01 * x)


def halve(x: Tensor) -> Tensor:
    """Maxima of 2x2 pixels; sizes are rounded up."""
    height, width = x.shape[2:]
    x = F.pad(x, (0, width % 2, 0, height % 2), value=-float("inf"))
    return torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(0)
