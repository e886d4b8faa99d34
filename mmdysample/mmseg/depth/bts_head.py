"""BTS's decoder, four of whose five up-convolutions take an upsampler."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmdysample.errors import InvalidType, InvalidValue
from mmdysample.hosts import build_stages
from mmdysample.mmseg.depth.dense_aspp import DenseASPP, bts_norm
from mmdysample.mmseg.depth.depth_head import DepthHead
from mmdysample.mmseg.depth.planar_guidance import local_planar_guidance, planes_of
from mmdysample.ops.checks import as_integer, positive_int

# Of a plane's depth, as a multiple of max_depth. Half precision ends at 65,504.
MAX_GUIDANCE = 1000.0


@MODELS.register_module()
class BTSHead(DepthHead):
    """The decoder of BTS with a configurable upsampler.

    An up-convolution upsamples twice, convolves (3x3) and applies ELU. From 1/8 of the image's size
    on, each stage predicts a plane for each pixel of its map (local planar guidance); the depths of
    these planes, at the size of the image, are what the last convolutions estimate the depth from.

    Lee et al.: "From Big to Small: Multi-Scale Local Planar Guidance for Monocular Depth
    Estimation", arXiv 1907.10326, section 3. What upsamplers replace: SAPA paper, section 5.1.

    Args:
        in_channels: channels of the five maps of a backbone, fine to coarse, at 1/2, 1/4, 1/8, 1/16
            and 1/32 of the image's size. See StemResNet.
        channels: channels after the first up-convolution, a multiple of 16; the others have 1/2 to
            1/16 of them.
        upsample_cfg: ``dict(type='SAPA', ...)``: what the first four up-convolutions upsample with,
            guided by the backbone's map of their size. None means BTS's nearest interpolation. The
            last up-convolution, to the size of the image, has no guide and keeps that.
        init_cfg: Xavier's uniform distribution by default. Upsamplers keep their own.
        **kwargs: as for DepthHead.

    State-dict names: ``upsample_modules.N``, N = 0 from 1/32 to 1/16 of the image's size up to 3
    from 1/4 to 1/2. A layer whose name ends in 8, 4, 2 or 1 makes that fraction's guidance;
    ``upconv1`` is the one at the size of the image.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 512,
        *,
        upsample_cfg: dict | None = None,
        align_corners: bool = False,
        init_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        _check_five("in_channels", in_channels)
        if kwargs.get("in_index") is not None:
            _check_five("in_index", kwargs["in_index"])
        channels = positive_int("channels of BTSHead", channels, "a multiple of 16")
        if channels % 16:
            raise InvalidValue(f"channels of BTSHead must be a multiple of 16, got {channels}")
        super().__init__(
            in_channels,
            channels,
            align_corners=align_corners,
            init_cfg=init_cfg or dict(type="Xavier", layer="Conv2d", distribution="uniform"),
            **kwargs,
        )
        skip0, skip1, skip2, skip3, coarsest = self.in_channels
        half, quarter, eighth, sixteenth = (channels // n for n in (2, 4, 8, 16))
        self.upsample_modules = build_stages(
            upsample_cfg or dict(type="Nearest"),
            (coarsest, channels, quarter, quarter),
            (skip3, skip2, skip1, skip0),
        )
        self.upconv5 = _conv_elu(coarsest, channels)
        self.bn5 = bts_norm(channels)
        self.conv5 = _conv_elu(channels + skip3, channels)

        self.upconv4 = _conv_elu(channels, half)
        self.bn4 = bts_norm(half)
        self.conv4 = _conv_elu(half + skip2, half)
        self.bn4_2 = bts_norm(half)
        self.aspp = DenseASPP(half, half + skip2, half, quarter)
        self.reduction8 = _reduction(quarter, quarter, 3)

        self.upconv3 = _conv_elu(quarter, quarter)
        self.bn3 = bts_norm(quarter)
        self.conv3 = _conv_elu(quarter + skip1 + 1, quarter)
        self.reduction4 = _reduction(quarter, eighth, 3)

        self.upconv2 = _conv_elu(quarter, eighth)
        self.bn2 = bts_norm(eighth)
        self.conv2 = _conv_elu(eighth + skip0 + 1, eighth)
        self.reduction2 = _reduction(eighth, sixteenth, 3)

        self.upconv1 = _conv_elu(eighth, sixteenth)
        self.reduction1 = _reduction(sixteenth, sixteenth // 2, 1)
        self.conv1 = _conv_elu(sixteenth + 4, sixteenth)
        self.conv_depth = nn.Conv2d(sixteenth, 1, 3, padding=1, bias=False)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Features of the backbone, fine to coarse -> depth (B, 1, H, W) in meters.

        H and W are twice those of the finest map: the image's, rounded up to even numbers.
        """
        inputs = self._transform_inputs(inputs)
        _check_sizes(inputs)
        skip0, skip1, skip2, skip3, x = inputs
        up5, up4, up3, up2 = self.upsample_modules
        size = (2 * skip0.shape[2], 2 * skip0.shape[3])

        x = self.bn5(self.upconv5(up5(x.relu(), guide=skip3)))
        x = self.conv5(torch.cat([x, skip3], dim=1))

        x = self.bn4(self.upconv4(up4(x, guide=skip2)))
        dense = torch.cat([x, skip2], dim=1)
        x = self.aspp(self.bn4_2(self.conv4(dense)), dense)
        depth8 = self._guidance(self.reduction8(x), 8, size)

        x = self.bn3(self.upconv3(up3(x, guide=skip1)))
        x = self.conv3(torch.cat([x, skip1, depth8[:, :, ::4, ::4]], dim=1))
        depth4 = self._guidance(self.reduction4(x), 4, size)

        x = self.bn2(self.upconv2(up2(x, guide=skip0)))
        x = self.conv2(torch.cat([x, skip0, depth4[:, :, ::2, ::2]], dim=1))
        depth2 = self._guidance(self.reduction2(x), 2, size)

        x = self.upconv1(F.interpolate(x, scale_factor=2, mode="nearest"))
        depth1 = self.reduction1(x).sigmoid()
        x = self.conv1(torch.cat([x, depth1, depth2, depth4, depth8], dim=1))
        logits = self.conv_depth(x)
        return self._share_of_max_depth(logits)

    def _guidance(self, logits: Tensor, patch_size: int, size: tuple[int, int]) -> Tensor:
        """(B, 3, h, w) -> (B, 1, *size): depths on the predicted planes, as parts of max_depth.

        They are bounded, unlike the paper's: one that is infinite, or too great for the half
        precision of the convolutions after it, would leave NaN in the statistics of all later
        normalizations.

        Where the backbone rounded sizes up, patches at the end reach beyond the image.
        """
        planes = planes_of(logits, max_distance=1.0)
        depth = local_planar_guidance(planes, patch_size, bound=MAX_GUIDANCE)
        return depth[:, :, : size[0], : size[1]].to(logits.dtype)

    def _resize(self, depth: Tensor, size: Sequence[int]) -> Tensor:
        """The row or column that an odd size was rounded up by is left out, not squeezed in."""
        if all(0 <= have - want <= 1 for have, want in zip(depth.shape[2:], size, strict=True)):
            return depth[:, :, : size[0], : size[1]]
        return super()._resize(depth, size)


def _conv_elu(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.ELU())


def _reduction(in_channels: int, width: int, out_channels: int) -> nn.Sequential:
    """1x1 convolutions to ``width`` channels, to half as many down to 8, then ``out_channels``."""
    layers: list[nn.Module] = []
    while width >= 8:
        layers += [nn.Conv2d(in_channels, width, 1, bias=False), nn.ELU()]
        in_channels, width = width, width // 2
    layers.append(nn.Conv2d(in_channels, out_channels, 1, bias=False))
    return nn.Sequential(*layers)


def _check_five(name: str, numbers: Sequence[int]) -> None:
    """InvalidType or InvalidValue unless ``numbers`` are five integers."""
    if not isinstance(numbers, Sequence) or [*map(as_integer, numbers)].count(None):
        raise InvalidType(f"{name} of BTSHead must be 5 integers, got {numbers!r}")
    if len(numbers) != 5:
        raise InvalidValue(
            f"{name} of BTSHead must be 5 integers, of the five maps of StemResNet, got "
            f"{list(numbers)}"
        )


def _check_sizes(inputs: Sequence[Tensor]) -> None:
    """InvalidValue unless each map has half of the size of the one before it, rounded up."""
    for fine, coarse in pairwise(inputs):
        expected = ((fine.shape[2] + 1) // 2, (fine.shape[3] + 1) // 2)
        if tuple(coarse.shape[2:]) != expected:
            raise InvalidValue(
                "BTSHead needs maps that halve in size and round up, at 1/2 to 1/32 of the image: "
                f"after {tuple(fine.shape[2:])} the next must be {expected}, got "
                f"{tuple(coarse.shape[2:])}"
            )
