"""DepthFormer's head: a decoder that climbs by x2 stages, beside the neck's maps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmdysample.errors import InvalidType, InvalidValue
from mmdysample.hosts import build_stages
from mmdysample.mmseg.depth.depth_head import DepthHead, refuse_arguments
from mmdysample.upsamplers.layers import to_float32_or_more

_ACTIVATION = dict(type="LeakyReLU", negative_slope=0.01)


@MODELS.register_module()
class DenseDepthHead(DepthHead):
    """DepthFormer's decoder with a configurable upsampler.

    The coarsest map passes through a 1x1 convolution. Each stage upsamples it to the size of the
    next finer map, which guides the upsampling, joins both and fuses them by two 3x3 convolutions
    (DySample paper, section 4.4: "four upsampling stages in the fusion module"). A 3x3 convolution
    to one channel gives the depth at the size of the finest map; the last resizing, to the image's
    size, stays bilinear.

    Args:
        in_channels: channels of the neck's maps, fine to coarse.
        upsample_cfg: ``dict(type='DySample', ...)``: what every stage is built from. None means
            bilinear interpolation with ``align_corners=True``, with which the paper's baseline was
            measured.
        scale_up: whether the depth is ``max_depth * sigmoid(.)`` instead of ``relu(.) +
            min_depth``. A ReLU that is below 0 everywhere at the start learns nothing any more;
            this one always learns.
        **kwargs: as for :class:`DepthHead`, without ``channels``: those of the maps are it.

    State-dict names: ``conv_list.0`` of the coarsest map; ``conv_list.N.convA`` and ``convB``,
    N = 1 being the coarsest stage; ``conv_depth``. Stage N+1's upsampler is
    ``upsample_modules.N``, N = 0 from 1/32 to 1/16 of the image's size.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        upsample_cfg: dict | None = None,
        scale_up: bool = False,
        **kwargs,
    ) -> None:
        if len(in_channels) < 2:
            raise InvalidValue(
                "in_channels of DenseDepthHead must be those of two maps or more, fine to coarse, "
                f"got {in_channels!r}"
            )
        if not isinstance(scale_up, bool):
            raise InvalidType(f"scale_up must be True or False, got {scale_up!r}")
        refuse_arguments("DenseDepthHead", kwargs, ["channels"])
        super().__init__(in_channels, in_channels[0], **kwargs)
        if upsample_cfg is None:
            upsample_cfg = dict(type="Bilinear", align_corners=True)
        self.scale_up = scale_up
        coarse_to_fine = self.in_channels[::-1]
        self.conv_list = nn.ModuleList(
            [ConvModule(coarse_to_fine[0], coarse_to_fine[0], 1, act_cfg=None)]
        )
        for x_channels, skip_channels in itertools.pairwise(coarse_to_fine):
            self.conv_list.append(Fusion(x_channels, skip_channels))
        self.conv_depth = nn.Conv2d(self.in_channels[0], 1, 3, padding=1)
        self.upsample_modules = build_stages(
            upsample_cfg, coarse_to_fine[:-1], guide_channels=coarse_to_fine[1:]
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Maps of the neck, fine to coarse -> depth in meters, (B, 1, h, w) of the finest map."""
        inputs = self._transform_inputs(inputs)
        first, *fusions = self.conv_list
        x = first(inputs[-1])
        skips = inputs[-2::-1]
        for upsample, fusion, skip in zip(self.upsample_modules, fusions, skips, strict=True):
            x = fusion(upsample(x, guide=skip), skip)
        logits = self.conv_depth(x)
        if self.scale_up:
            return self._share_of_max_depth(logits)
        return to_float32_or_more(logits).relu() + self.min_depth

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scale_up={self.scale_up}"


class Fusion(BaseModule):
    """An upsampled map and the map of its size, fused by two 3x3 convolutions."""

    def __init__(self, x_channels: int, skip_channels: int) -> None:
        super().__init__()
        self.convA = ConvModule(
            x_channels + skip_channels, skip_channels, 3, padding=1, act_cfg=_ACTIVATION
        )
        self.convB = ConvModule(skip_channels, skip_channels, 3, padding=1, act_cfg=_ACTIVATION)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, x_channels, H, W) and (B, skip_channels, H, W) -> (B, skip_channels, H, W)."""
        return self.convB(self.convA(torch.cat((x, skip), dim=1)))
