"""DepthFormer's backbone: a Swin Transformer beside a convolutional stem."""

from __future__ import annotations

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmseg.models.backbones import SwinTransformer
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmdysample.ops.checks import positive_int


@MODELS.register_module()
class DepthFormerSwin(SwinTransformer):
    """mmseg's SwinTransformer, and a stem that sees the image at half its size.

    Source: Li et al., "DepthFormer: Exploiting Long-Range Correlation and Local Information for
    Accurate Monocular Depth Estimation", 2022. The stem is a ResNet's without its pooling: a
    convolution of 7x7 with stride 2, batch normalization and ReLU.

    Args:
        stem_channels: channels of the stem's map.
        stem_norm_cfg: normalization in the stem; ``dict(type='BN')`` by default.
        **kwargs: as for mmseg's SwinTransformer; all of its maps are returned by default.

    State-dict names: SwinTransformer's, ``conv1`` and ``bn1``. Weights of a SwinTransformer load,
    and the stem keeps its initial ones.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        stem_channels: int = 64,
        stem_norm_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(in_channels=in_channels, **kwargs)
        stem_channels = positive_int("stem_channels", stem_channels)
        self.conv1 = nn.Conv2d(in_channels, stem_channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = build_norm_layer(stem_norm_cfg or dict(type="BN"), stem_channels)[1]

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps at 1/2, 1/4, 1/8, 1/16 and 1/32; sizes are rounded up."""
        return [F.relu(self.bn1(self.conv1(x))), *super().forward(x)]
