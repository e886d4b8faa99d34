"""Checkpoints of mmdet's own CARAFE configs load, and mean the same."""

from __future__ import annotations

import sys

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmcv.ops", reason="needs mmcv with its ops: bash tools/setup_env.sh builds it")

from mmcv.ops import CARAFEPack
from mmdet.models.necks import FPN_CARAFE
from mmengine.config import Config
from mmengine.hub import get_config

from mmdysample import CARAFE
from mmdysample.mmdet import UpsampleFPN
from tests.reference.pixelwise import weighted_windows
from tests.utils import assert_close, randomize


def reassemble_by_definition(x, mask, kernel_size, group_size, scale_factor):
    """In place of mmcv's operator, which has no CPU kernel."""
    parts = zip(x.chunk(group_size, 1), mask.chunk(group_size, 1), strict=True)
    outs = [weighted_windows(values, kernel, scale_factor) for values, kernel in parts]
    return torch.cat(outs, dim=1).to(x.dtype)


@pytest.fixture(autouse=True)
def _carafe_on_the_cpu(monkeypatch):
    monkeypatch.setattr(sys.modules["mmcv.ops.carafe"], "carafe", reassemble_by_definition)


@pytest.mark.parametrize(
    "settings", [dict(), dict(up_kernel=3, up_group=2), dict(compressed_channels=8)], ids=str
)
def test_a_carafe_pack_loads(settings):
    theirs = randomize(CARAFEPack(6, 2, **settings)).double()
    ours = CARAFE(6, **settings).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    with torch.no_grad():
        assert_close(ours(x), theirs(x))


def test_the_settings_of_mmcv_are_taken_as_they_are():
    settings = get_config("mmdet::carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py").model.neck
    ours = CARAFE(6, **{k: v for k, v in settings.upsample_cfg.items() if k != "type"})
    theirs = CARAFEPack(6, 2, **{k: v for k, v in settings.upsample_cfg.items() if k != "type"})
    for name in ("up_kernel", "up_group", "encoder_kernel", "encoder_dilation"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.compressed_channels == theirs.compressed_channels


def test_a_neck_of_mmdets_carafe_config_loads():
    neck_cfg = get_config("mmdet::carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py").model.neck
    neck_cfg = Config(neck_cfg.to_dict() | dict(in_channels=[4, 6, 8, 10], out_channels=8))
    assert neck_cfg.pop("type") == "FPN_CARAFE"
    theirs = randomize(FPN_CARAFE(**neck_cfg)).double()
    ours = UpsampleFPN(
        in_channels=neck_cfg.in_channels,
        out_channels=8,
        num_outs=neck_cfg.num_outs,
        top_down_extra_levels=True,
        upsample_cfg=dict(type="CARAFE"),
    ).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)

    sizes = [(11, 9), (6, 5), (3, 3), (2, 2)]
    inputs = [torch.randn(1, c, *hw).double() for c, hw in zip((4, 6, 8, 10), sizes, strict=True)]
    with torch.no_grad():
        expected, actual = theirs(inputs), ours(tuple(inputs))
    assert len(expected) == len(actual) == 5
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other)
