"""What the hosts share: the list of stages, the check of their inputs, the pyramid's levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import ModuleList
from torch import Tensor, nn

from mmdysample.errors import InvalidValue
from mmdysample.registry import build_upsampler


def build_stages(
    upsample_cfg: dict, channels: Sequence[int], guide_channels: Sequence[int] | None = None
) -> ModuleList:
    """x2 upsamplers, one for each of ``channels``; their guides have as many channels by default.

    mmengine's ModuleList initializes them after the host's own layers, so that a host's Xavier
    initialization does not overwrite theirs.
    """
    return ModuleList(
        build_upsampler(upsample_cfg, x_channels, 2, guide_channels=y_channels)
        for x_channels, y_channels in zip(channels, guide_channels or channels, strict=True)
    )


def check_channels(host: str, inputs: Sequence[Tensor], in_channels: Sequence[int]) -> None:
    """InvalidValue unless the maps of the backbone have ``in_channels`` channels."""
    channels = [x.shape[1] for x in inputs]
    if channels != list(in_channels):
        raise InvalidValue(
            f"{host} takes feature maps of in_channels={in_channels}, "
            f"got maps of {channels} channels"
        )


def top_down(
    coarsest: Tensor,
    laterals: Sequence[Tensor],
    stages: Sequence[nn.Module],
    output_convs: Sequence[nn.Module] | None = None,
) -> list[Tensor]:
    """The top-down path of a feature pyramid.

    From ``coarsest`` up, each level is the upsampled level below added to its lateral, which
    guides the upsampling; where there are ``output_convs`` each level passes through its own
    before it is upsampled in turn.

    Args:
        coarsest: the level below the laterals, (B, C, h, w).
        laterals: (B, C, H, W), fine to coarse.
        stages: upsamplers; number N climbs to lateral N.
        output_convs: one per lateral.

    Returns:
        The levels of the laterals, fine to coarse.
    """
    outs = []
    y = coarsest
    for n in reversed(range(len(laterals))):
        y = laterals[n] + stages[n](y, guide=laterals[n])
        if output_convs is not None:
            y = output_convs[n](y)
        outs.append(y)
    return outs[::-1]


def append_extra_outs(
    fpn: nn.Module, outs: list[Tensor], laterals: Sequence[Tensor], inputs: Sequence[Tensor]
) -> None:
    """Append the levels of an FPN that are outside its top-down path, until it has ``num_outs``.

    Args:
        fpn: mmdet's or mmseg's FPN, whose settings say whether these levels are convolved, and
            from what, or max-pooled.
        outs: the levels so far, (B, C, H, W) each, fine to coarse; changed in place.
        laterals, inputs: those that the top-down path is made of, fine to coarse.
    """
    if not fpn.add_extra_convs:
        while len(outs) < fpn.num_outs:
            outs.append(F.max_pool2d(outs[-1], 1, stride=2))
        return
    sources = dict(on_input=inputs[-1], on_lateral=laterals[-1], on_output=outs[-1])
    extra = sources[fpn.add_extra_convs]
    for i, conv in enumerate(fpn.fpn_convs[len(laterals) :]):
        outs.append(conv(F.relu(extra) if i and fpn.relu_before_extra_convs else extra))
        extra = outs[-1]
