"""The densely connected dilated convolutions of BTS (section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def bts_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalization with the constants of BTS's decoder."""
    return nn.BatchNorm2d(channels, eps=1.1e-5, momentum=0.01)


class DenseASPP(nn.Module):
    """Dilated convolutions, each of which sees what all those before it computed.

    A branch is (normalization) - ReLU - 1x1 - normalization - ReLU - dilated 3x3; the first branch
    reads a map that is normalized already. A 3x3 convolution and ELU fuse the results.

    Args:
        in_channels: channels of the map that the first branch reads.
        dense_channels: channels of the map that all others read, before the results of the
            branches.
        hidden_channels: channels between the two convolutions of a branch.
        out_channels: channels of each branch and of the result.
        rates: dilation of each branch.
    """

    def __init__(
        self,
        in_channels: int,
        dense_channels: int,
        hidden_channels: int,
        out_channels: int,
        rates: Sequence[int] = (3, 6, 12, 18, 24),
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList()
        for number, rate in enumerate(rates):
            channels = dense_channels + number * out_channels if number else in_channels
            self.branches.append(
                nn.Sequential(
                    bts_norm(channels) if number else nn.Identity(),
                    nn.ReLU(),
                    nn.Conv2d(channels, hidden_channels, 1, bias=False),
                    nn.BatchNorm2d(hidden_channels),
                    nn.ReLU(),
                    nn.Conv2d(
                        *(hidden_channels, out_channels, 3),
                        padding=rate,
                        dilation=rate,
                        bias=False,
                    ),
                )
            )
        fused = in_channels + len(rates) * out_channels
        self.fuse = nn.Sequential(
            nn.Conv2d(fused, out_channels, 3, padding=1, bias=False), nn.ELU()
        )

    def forward(self, x: Tensor, dense: Tensor) -> Tensor:
        """(B, in_channels, H, W) and (B, dense_channels, H, W) -> (B, out_channels, H, W)."""
        outs: list[Tensor] = []
        for number, branch in enumerate(self.branches):
            outs.append(branch(torch.cat([dense, *outs], dim=1) if number else x))
        return self.fuse(torch.cat([x, *outs], dim=1))
