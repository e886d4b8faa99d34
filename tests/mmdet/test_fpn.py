"""UpsampleFPN against mmdet's FPN and FPN_CARAFE, and its checkpoints."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

from mmdet.models.necks import FPN, FPN_CARAFE

from mmdysample.mmdet import UpsampleFPN
from tests.host_contract import HostContract, Recorder, assert_bit_equal, make_maps
from tests.loaders import LOADERS
from tests.utils import assert_close, randomize

IN_CHANNELS = [8, 16, 24, 48]


def make(num_outs=5, cls=UpsampleFPN, **kwargs) -> nn.Module:
    return randomize(cls(IN_CHANNELS, 32, num_outs, **kwargs))


def call(neck: nn.Module, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return list(neck(tuple(inputs)))


class TestThreeStages(HostContract):
    def make(self, upsample_cfg=None):
        return make(upsample_cfg=upsample_cfg)

    def make_upstream(self):
        return make(cls=FPN)


class TestFourStages(HostContract):
    stages = 4

    def make(self, upsample_cfg=None):
        return make(upsample_cfg=upsample_cfg, top_down_extra_levels=True)

    def make_upstream(self):
        return make(cls=FPN_CARAFE, upsample_cfg=dict(type="nearest"))

    @pytest.mark.parametrize("sizes", ["even", "odd"])  # FPN_CARAFE takes no others
    @pytest.mark.parametrize("default", [True, False], ids=["default", "named"])
    def test_with_upstreams_interpolation_it_is_upstreams_class(self, default, sizes):
        super().test_with_upstreams_interpolation_it_is_upstreams_class(default, sizes)


# start_level, end_level, num_outs
LEVELS = [(0, -1, 4), (0, -1, 5), (0, -1, 6), (1, -1, 5), (2, -1, 4), (3, -1, 3), (0, 2, 3)]
LEVELS += [(1, 2, 2), (0, 3, 5)]
every_layout = pytest.mark.parametrize("levels", LEVELS, ids=str)


@pytest.mark.parametrize(
    ("add_extra_convs", "relu"),
    [
        (False, False),
        ("on_input", True),
        ("on_lateral", False),
        ("on_output", True),
        (True, False),
    ],
)
@every_layout
def test_other_levels_are_mmdets(levels, add_extra_convs, relu):
    start_level, end_level, num_outs = levels
    kwargs = dict(
        num_outs=num_outs,
        start_level=start_level,
        end_level=end_level,
        add_extra_convs=add_extra_convs,
        relu_before_extra_convs=relu,
    )
    assert_bit_equal(make(**kwargs), make(cls=FPN, **kwargs), make_maps(IN_CHANNELS), call)


LAYERS = {
    "group-norm-relu": dict(norm_cfg=dict(type="GN", num_groups=2), act_cfg=dict(type="ReLU")),
    "no-norm-on-lateral": dict(norm_cfg=dict(type="BN"), no_norm_on_lateral=True),
    "conv-cfg": dict(conv_cfg=dict(type="ConvAWS")),
}


@pytest.mark.parametrize("name", LAYERS)
def test_other_layers_are_mmdets(name):
    ours, upstream = make(**LAYERS[name]), make(cls=FPN, **LAYERS[name])
    assert_bit_equal(ours, upstream, make_maps(IN_CHANNELS), call)


def test_bilinear_is_mmdets():
    upstream = make(cls=FPN, upsample_cfg=dict(mode="bilinear", align_corners=False))
    ours = make(upsample_cfg=dict(type="Bilinear"))
    assert_bit_equal(ours, upstream, make_maps(IN_CHANNELS, "floored"), call)


@every_layout
def test_extra_levels_in_the_top_down_path_are_mmdets_fpn_carafe(levels):
    start_level, end_level, num_outs = levels
    kwargs = dict(num_outs=num_outs, start_level=start_level, end_level=end_level)
    kwargs |= LAYERS["group-norm-relu"]
    upstream = make(cls=FPN_CARAFE, upsample_cfg=dict(type="nearest"), **kwargs)
    ours = make(top_down_extra_levels=True, **kwargs)
    assert_bit_equal(ours, upstream, make_maps(IN_CHANNELS), call)


@pytest.mark.parametrize("no_norm_on_lateral", [False, True])
def test_extra_levels_have_the_layers_of_the_others(no_norm_on_lateral):
    neck = make(
        num_outs=6,
        top_down_extra_levels=True,
        no_norm_on_lateral=no_norm_on_lateral,
        norm_cfg=dict(type="BN"),
        act_cfg=dict(type="ReLU"),
    )
    assert [conv.with_norm for conv in neck.lateral_convs] == [not no_norm_on_lateral] * 6
    assert [conv.with_norm for conv in neck.fpn_convs] == [True] * 6
    assert all(conv.with_activation for conv in [*neck.lateral_convs, *neck.fpn_convs])


def test_the_extra_level_is_where_the_four_stages_start():
    neck = make(upsample_cfg=dict(type=Recorder), top_down_extra_levels=True)
    inputs = make_maps(IN_CHANNELS)
    neck(tuple(inputs))
    assert torch.equal(neck.upsample_modules[-1].x, neck.lateral_convs[4](inputs[-1]))


class Detector(nn.Module):
    def __init__(self, neck: nn.Module) -> None:
        super().__init__()
        self.neck = neck


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("kind", ["DySample", "Nearest"])
@pytest.mark.parametrize("stages", [3, 4])
def test_a_checkpoint_of_another_layout_is_refused(stages, kind, load, tmp_path):
    saved, built = (
        Detector(make(upsample_cfg=dict(type=kind), top_down_extra_levels=four))
        for four in (stages == 4, stages != 4)
    )
    before = {k: v.clone() for k, v in built.state_dict().items()}
    layout = {
        3: r"top_down_extra_levels=False \(configs named \*_fpn_\*\)",
        4: r"top_down_extra_levels=True \(configs named \*_fpn-p6_\*\)",
    }
    message = (
        rf"the checkpoint's FPN has {stages} upsampling stages \({stages + 1} laterals\), this one "
        rf"has {7 - stages}; the checkpoint needs {layout[stages]}"
    )
    with pytest.raises(ValueError, match=message):
        load(built, saved.state_dict(), tmp_path)
    for name, value in built.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} was overwritten"


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("scope_bias", [False, True], ids=["no-bias", "scope-bias"])
def test_a_checkpoint_with_or_without_scope_bias_loads(scope_bias, load, tmp_path):
    cfg = dict(type="DySample", dyscope=True)
    state = Detector(make(upsample_cfg=cfg)).state_dict()
    for n in range(3 if scope_bias else 0):
        name = f"neck.upsample_modules.{n}."
        state[name + "scope.bias"] = torch.randn_like(state[name + "offset.bias"])
    built = Detector(make(upsample_cfg=cfg))
    load(built, state, tmp_path)
    loaded = built.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_a_checkpoint_of_other_backbone_levels_is_refused():
    saved = make(start_level=1)
    with pytest.raises(ValueError, match=r"has 2 upsampling stages.*needs 3 backbone levels"):
        make().load_state_dict(saved.state_dict())


def test_the_extra_convolutions_of_retinanet_are_no_stages():
    saved = make(add_extra_convs="on_input", upsample_cfg=dict(type="DySample"))
    built = make(add_extra_convs="on_input", upsample_cfg=dict(type="DySample"))
    built.load_state_dict(saved.state_dict(), strict=True)
    assert len(built.upsample_modules) == 3 and len(built.fpn_convs) == 5


def test_user_errors():
    with pytest.raises(ValueError, match="top_down_extra_levels=True and add_extra_convs='on_in"):
        make(add_extra_convs=True, top_down_extra_levels=True)
    maps = make_maps(IN_CHANNELS)
    for wrong in (maps[:3], [torch.zeros(1, 1, 8, 8)] * 4):
        with pytest.raises(ValueError, match=r"in_channels=\[8, 16, 24, 48\], got maps of \["):
            make()(tuple(wrong))


@pytest.mark.slow
def test_exports():
    neck = make(upsample_cfg=dict(type="DySample")).eval()
    inputs = tuple(make_maps(IN_CHANNELS))
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        neck, (inputs,), dynamic_shapes=(tuple({0: batch} for _ in inputs),)
    )
    inputs = tuple(make_maps(IN_CHANNELS, batch=3))
    for out, expected in zip(program.module()(inputs), neck(inputs), strict=True):
        assert_close(out, expected)
