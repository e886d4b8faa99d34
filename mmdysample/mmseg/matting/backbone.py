"""The encoder of the matting network: a ResNet that keeps the maps before its poolings."""

from __future__ import annotations

from typing import NamedTuple

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmdysample.errors import InvalidValue
from mmdysample.hosts import check_channels
from mmdysample.mmseg.matting.residual_block import NEGATIVE_SLOPE, ResidualBlock
from mmdysample.ops.checks import positive_int

_BLOCKS = {18: (2, 2, 2), 34: (3, 4, 4)}


class EncoderMaps(NamedTuple):
    """Maps of `MattingResNet`, with c = ``base_channels``; sizes are rounded up."""

    image: Tensor  # (B, in_channels, H, W), the input
    stem: Tensor  # (B, c, H, W)
    pooled_stem: Tensor  # (B, c, H/2, W/2)
    layer1: Tensor  # (B, c, H/4, W/4)
    inner_layer2: Tensor  # (B, 2c, H/4, W/4), before the pooling in layer 2
    layer2: Tensor  # (B, 2c, H/8, W/8)
    inner_layer3: Tensor  # (B, 4c, H/8, W/8), before the pooling in layer 3
    layer3: Tensor  # (B, 4c, H/16, W/16)


@MODELS.register_module()
class MattingResNet(BaseModule):
    """The encoder of A2U matting (Dai et al., CVPR 2021) with max-poolings.

    A ResNet of three layers for image and trimap. Its 7x7 stem has stride 1, and all steps are 2x2
    max-poolings: two after the stem, one inside the first block of layers 2 and 3. Layer 3 of
    depth 34 has four blocks. Activations are LeakyReLU(0.01).

    Parameters have torchvision's names and shapes, but for the fourth input channel of the stem:
    weights of a stem with three load, and the trimap's are zeros. ``init_cfg=dict(
    type="Pretrained", checkpoint="torchvision://resnet34")`` takes the first four blocks of
    layer 3 and leaves layer 4 and the classifier.

    Args:
        depth: 34, or 18 with two blocks a layer.
        in_channels: those of the image and its trimap.
        base_channels: c, the channels of stem and layer 1; layers 2 and 3 have 2c and 4c.
        norm_cfg: config of the normalization; by default ``dict(type="BN")``.
        init_cfg: as for any module of mmengine; by default Kaiming's initialization.
    """

    def __init__(
        self,
        depth: int = 34,
        in_channels: int = 4,
        base_channels: int = 64,
        norm_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        if depth not in _BLOCKS:
            raise InvalidValue(f"depth of MattingResNet must be 18 or 34, got {depth!r}")
        if init_cfg is None:
            init_cfg = dict(
                type="Kaiming", layer="Conv2d", a=NEGATIVE_SLOPE, nonlinearity="leaky_relu"
            )
        super().__init__(init_cfg)
        norm_cfg = norm_cfg or dict(type="BN")
        self.in_channels = positive_int("in_channels", in_channels)
        self.base_channels = c = positive_int("base_channels", base_channels)
        self.conv1 = nn.Conv2d(in_channels, c, 7, padding=3, bias=False)
        self.bn1 = build_norm_layer(norm_cfg, c)[1]
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        blocks = _BLOCKS[depth]
        self.layer1 = _make_layer(c, c, blocks[0], 1, norm_cfg)
        self.layer2 = _make_layer(c, 2 * c, blocks[1], 2, norm_cfg)
        self.layer3 = _make_layer(2 * c, 4 * c, blocks[2], 2, norm_cfg)

    def forward(self, image: Tensor) -> EncoderMaps:
        """(B, in_channels, H, W) -> the maps that the decoder takes.

        Raises:
            ValueError: the input has other channels.
        """
        check_channels("MattingResNet", [image], [self.in_channels])
        stem = self.activation(self.bn1(self.conv1(image)))
        pooled_stem = self.pool(stem)
        layer1 = self.layer1(self.pool(pooled_stem))
        inner_layer2 = self.layer2[0].first_half(layer1)
        layer2 = self.layer2[1:](self.layer2[0].second_half(layer1, inner_layer2))
        inner_layer3 = self.layer3[0].first_half(layer2)
        layer3 = self.layer3[1:](self.layer3[0].second_half(layer2, inner_layer3))
        return EncoderMaps(
            image, stem, pooled_stem, layer1, inner_layer2, layer2, inner_layer3, layer3
        )

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        name = f"{prefix}conv1.weight"
        weight = state_dict.get(name)
        if weight is not None and weight.dim() == 4 and 3 == weight.shape[1] < self.in_channels:
            added = weight.new_zeros(len(weight), self.in_channels - 3, *weight.shape[2:])
            state_dict[name] = torch.cat([weight, added], dim=1)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _make_layer(
    in_channels: int, channels: int, blocks: int, stride: int, norm_cfg: dict
) -> nn.Sequential:
    first = ResidualBlock(in_channels, channels, stride, norm_cfg)
    rest = [ResidualBlock(channels, channels, 1, norm_cfg) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)
