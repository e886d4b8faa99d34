"""Atrous spatial pyramid pooling with depthwise separable convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from torch import Tensor, nn

from mmdysample.errors import InvalidValue


class SeparableASPP(nn.Module):
    """ASPP (DeepLabv3+, Chen et al., ECCV 2018): parallel branches, joined by a 1x1 convolution.

    A 1x1 convolution, a depthwise 3x3 and pointwise convolution for each further dilation, and the
    mean of the image. Each convolution has its normalization and activation.

    Args:
        channels: of the input, of each branch and of the result.
        dilations: of the branches; the first, 1, is that of the 1x1 convolution.
        dropout_ratio: of single values of the result.
        norm_cfg: config of the normalization.
        act_cfg: config of the activation.
    """

    def __init__(
        self,
        channels: int,
        dilations: Sequence[int],
        dropout_ratio: float,
        norm_cfg: dict,
        act_cfg: dict,
    ) -> None:
        super().__init__()
        if len(dilations) < 1 or dilations[0] != 1:
            raise InvalidValue(
                f"dilations must begin with the 1 of the 1x1 convolution, got {tuple(dilations)}"
            )
        settings = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.branches = nn.ModuleList([ConvModule(channels, channels, 1, **settings)])
        for dilation in dilations[1:]:
            self.branches.append(
                DepthwiseSeparableConvModule(
                    channels, channels, 3, padding=dilation, dilation=dilation, **settings
                )
            )
        self.image_conv = ConvModule(channels, channels, 1, **settings)
        self.fusion = ConvModule((len(dilations) + 1) * channels, channels, 1, **settings)
        self.dropout = nn.Dropout(dropout_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        norm = self.image_conv.norm
        of_one_process = isinstance(norm, nn.BatchNorm2d)
        if of_one_process and norm.training and len(x) == 1:
            raise InvalidValue(
                "the batch normalization of the pooled image has one value of one image to "
                "normalize: train with train_dataloader.batch_size of 2 or more in each process, "
                "or with norm_cfg=dict(type='SyncBN') in several"
            )
        mean = self.image_conv(x.mean(dim=(2, 3), keepdim=True))
        maps = [branch(x) for branch in self.branches]
        maps.append(F.interpolate(mean, size=x.shape[2:], mode="nearest"))
        return self.dropout(self.fusion(torch.cat(maps, dim=1)))
