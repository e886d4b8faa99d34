"""Checkpoints whose upsamplers have the authors' names load in every host."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmdysample.mmdet import UpsampleFPN, UpsampleMSDeformAttnPixelDecoder
from mmdysample.mmdet.pixel_decoder import UpsamplePixelDecoder
from mmdysample.mmseg import UpsampleSegformerHead, UpsampleUPerHead
from tests.loaders import load_file_with_mmengine, load_with_torch_strictly
from tests.mmdet.test_msdeformattn_pixel_decoder import make as make_msdeformattn
from tests.upsamplers.test_published_names import MODULES, published
from tests.utils import randomize

C = 32  # the least that A2U and group normalisation take
CHANNELS = [8, 16, 24]


def make_head(cls, upsample_cfg: dict) -> nn.Module:
    return cls(
        in_channels=CHANNELS,
        in_index=[0, 1, 2],
        channels=C,
        num_classes=3,
        norm_cfg=dict(type="BN"),
        upsample_cfg=upsample_cfg,
    )


HOSTS = {
    UpsampleFPN: lambda cfg: UpsampleFPN(CHANNELS, C, 3, upsample_cfg=cfg),
    UpsamplePixelDecoder: lambda cfg: UpsamplePixelDecoder(CHANNELS, C, C, upsample_cfg=cfg),
    UpsampleMSDeformAttnPixelDecoder: lambda cfg: make_msdeformattn(upsample_cfg=cfg),
    UpsampleSegformerHead: lambda cfg: make_head(UpsampleSegformerHead, cfg),
    UpsampleUPerHead: lambda cfg: make_head(UpsampleUPerHead, cfg),
}


@pytest.mark.parametrize("load", [load_with_torch_strictly, load_file_with_mmengine])
@pytest.mark.parametrize("name", ["FADE", "SAPA-G", "SAPA with groups", "IndexNet M2O", "A2U"])
@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.__name__)
def test_the_authors_names_load_in_every_host(host, name, load, tmp_path):
    cls, settings, _ = MODULES[name]
    source, target = (randomize(HOSTS[host](dict(type=cls.__name__, **settings))) for _ in "12")
    stages = range(len(source.upsample_modules))
    assert stages
    own = source.state_dict()
    state = {k: v for k, v in own.items() if not k.startswith("upsample_modules.")}
    for n in stages:
        prefix = f"upsample_modules.{n}."
        state |= published(name, {k: v for k, v in own.items() if k.startswith(prefix)}, prefix)
    load(target, state, tmp_path)
    loaded = target.state_dict()
    for key, value in own.items():
        assert torch.equal(loaded[key], value), key
