"""UpsampleUPerHead against mmseg's UPerHead."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmseg.models.decode_heads import UPerHead

from mmdysample.mmseg import UpsampleUPerHead
from tests.host_contract import HostContract, Recorder, make_maps
from tests.utils import randomize

IN_CHANNELS = [8, 16, 24, 48]


def make(cls=UpsampleUPerHead, levels=4, **kwargs) -> nn.Module:
    settings = dict(
        in_channels=IN_CHANNELS[:levels],
        in_index=list(range(levels)),
        channels=32,
        num_classes=5,
        dropout_ratio=0,
        norm_cfg=dict(type="BN"),
        align_corners=False,
    )
    return randomize(cls(**settings | kwargs))


class TestUPerHead(HostContract):
    interpolation = "Bilinear"
    in_channels = IN_CHANNELS

    def make(self, upsample_cfg=None):
        return make(upsample_cfg=upsample_cfg)

    def make_upstream(self):
        return make(UPerHead)

    def call(self, module, inputs):
        return [module(inputs)]


class TestTwoLevels(TestUPerHead):
    test_compiles_in_one_graph = None  # nothing more than of the class above
    in_channels = IN_CHANNELS[:2]
    stages = 1

    def make(self, upsample_cfg=None):
        return make(levels=2, upsample_cfg=upsample_cfg)

    def make_upstream(self):
        return make(UPerHead, levels=2)


def test_the_path_starts_at_the_pooled_pyramid():
    head = make(upsample_cfg=dict(type=Recorder)).eval()
    inputs = make_maps(IN_CHANNELS)
    head(inputs)
    assert torch.equal(head.upsample_modules[2].x, head.psp_forward(inputs))


def test_user_errors():
    with pytest.raises(ValueError, match="align_corners=False, got align_corners=True"):
        make(align_corners=True)
    make(align_corners=True, upsample_cfg=dict(type="DySample"))
    with pytest.raises(ValueError, match=r"of in_channels=.*got maps of \[1, 1, 1, 1\] channels"):
        make()([torch.zeros(1, 1, 8, 8)] * 4)
