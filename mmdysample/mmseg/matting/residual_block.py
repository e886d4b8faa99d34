"""The residual block of the matting network, in its encoder and its decoder."""

from __future__ import annotations

from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

NEGATIVE_SLOPE = 0.01  # of every LeakyReLU of the network


class ResidualBlock(nn.Module):
    """conv3x3, norm, LeakyReLU, conv3x3, norm, added to a shortcut, LeakyReLU.

    Where its stride is 2 a max-pooling before the second convolution makes the step, so that the
    block has a map of its ``channels`` at the size of its input: a guide for upsampling.

    Parameters are named as in torchvision's BasicBlock: ``conv1``, ``bn1``, ``conv2``, ``bn2``,
    ``downsample.0``, ``downsample.1``.

    Args:
        in_channels: channels of ``x``.
        channels: channels of the result.
        stride: 1 or 2.
        norm_cfg: config of the normalization.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, norm_cfg: dict) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn1 = build_norm_layer(norm_cfg, channels)[1]
        # Sizes are rounded up, as the shortcut's stride does.
        self.pool = nn.MaxPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = build_norm_layer(norm_cfg, channels)[1]
        self.downsample = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False),
                build_norm_layer(norm_cfg, channels)[1],
            )
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)

    def first_half(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H, W), before a max-pooling."""
        return self.activation(self.bn1(self.conv1(x)))

    def second_half(self, x: Tensor, inner: Tensor) -> Tensor:
        """The block's result, of its input ``x`` and the result ``inner`` of its first half."""
        residual = self.bn2(self.conv2(self.pool(inner)))
        return self.activation(residual + self.downsample(x))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H/stride, W/stride), rounded up."""
        return self.second_half(x, self.first_half(x))
