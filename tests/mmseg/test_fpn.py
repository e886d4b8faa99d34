"""UpsampleFPN against mmseg's FPN neck."""

from __future__ import annotations

import pytest
from torch import nn

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmseg.models.necks import FPN
from mmseg.registry import MODELS

from mmdysample.mmseg import UpsampleFPN
from tests.host_contract import HostContract, assert_bit_equal, make_maps
from tests.utils import randomize

IN_CHANNELS = [8, 16, 24, 48]


def make(num_outs=4, cls=UpsampleFPN, **kwargs) -> nn.Module:
    return randomize(cls(IN_CHANNELS, 32, num_outs, **kwargs))


def call(neck: nn.Module, inputs: list) -> list:
    return list(neck(tuple(inputs)))


class TestFPN(HostContract):
    test_compiles_in_one_graph = None  # nothing more than of mmdet's

    def make(self, upsample_cfg=None):
        return make(upsample_cfg=upsample_cfg)

    def make_upstream(self):
        return make(cls=FPN)


def test_it_is_what_the_name_means_in_an_mmseg_config():
    settings = dict(type="UpsampleFPN", in_channels=IN_CHANNELS, out_channels=32, num_outs=4)
    assert type(MODELS.build(settings)) is UpsampleFPN


# start_level, end_level (of which mmseg's is the first that is left out), num_outs
LEVELS = [(0, -1, 4), (0, -1, 6), (1, -1, 5), (3, -1, 3), (0, 3, 3), (1, 3, 2)]


@pytest.mark.parametrize(
    "extra",
    [
        dict(),
        dict(add_extra_convs=True),  # which here is from the output
        dict(add_extra_convs=True, extra_convs_on_inputs=True),
        dict(add_extra_convs="on_input", relu_before_extra_convs=True),
        dict(add_extra_convs="on_lateral"),
        dict(norm_cfg=dict(type="BN"), no_norm_on_lateral=True, act_cfg=dict(type="ReLU")),
    ],
    ids=str,
)
@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_other_settings_are_mmsegs(levels, extra):
    start_level, end_level, num_outs = levels
    kwargs = dict(num_outs=num_outs, start_level=start_level, end_level=end_level, **extra)
    ours = make(**kwargs)
    assert_bit_equal(ours, make(cls=FPN, **kwargs), make_maps(IN_CHANNELS), call)
    levels_of_the_backbone = IN_CHANNELS[start_level : None if end_level == -1 else end_level]
    assert len(ours.upsample_modules) == len(levels_of_the_backbone) - 1


def test_bilinear_is_mmsegs():
    upstream = make(cls=FPN, upsample_cfg=dict(mode="bilinear", align_corners=False))
    ours = make(upsample_cfg=dict(type="Bilinear"))
    assert_bit_equal(ours, upstream, make_maps(IN_CHANNELS, "floored"), call)
