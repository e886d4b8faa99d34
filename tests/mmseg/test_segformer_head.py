"""UpsampleSegformerHead against mmseg's SegformerHead, and its checkpoints."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmseg.models.decode_heads import SegformerHead

from mmdysample.mmseg import UpsampleSegformerHead
from tests.host_contract import HostContract, Recorder, assert_bit_equal, make_maps
from tests.loaders import LOADERS
from tests.utils import assert_close, randomize

IN_CHANNELS = [8, 16, 24, 48]
DYSAMPLE_PLUS = dict(type="DySample", dyscope=True)


def make(cls=UpsampleSegformerHead, levels=4, **kwargs) -> nn.Module:
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


class TestSegformerHead(HostContract):
    """Stages 0, 1, 2 climb from c4, 3, 4 from c3, 5 from c2."""

    interpolation = "Bilinear"
    stages = 6

    def make(self, upsample_cfg=None):
        return make(upsample_cfg=upsample_cfg)

    def make_upstream(self):
        return make(SegformerHead)

    def call(self, module, inputs):
        return [module(inputs)]

    def guides(self, host, inputs):
        c1, c2, c3, _ = (conv(x) for conv, x in zip(host.convs, inputs, strict=True))
        return [c3, c2, c1, c2, c1, c1]


def test_interpolate_mode_nearest_is_mmsegs():
    settings = dict(interpolate_mode="nearest", align_corners=None)
    ours = make(**settings)
    assert {type(up).__name__ for up in ours.upsample_modules} == {"Nearest"}
    inputs = make_maps(IN_CHANNELS, "floored")
    assert_bit_equal(ours, make(SegformerHead, **settings), inputs, lambda head, x: [head(x)])


def test_each_stage_upsamples_what_the_one_before_it_gave():
    head = make(upsample_cfg=dict(type=Recorder)).eval()
    inputs = make_maps(IN_CHANNELS)
    head(inputs)
    c1, c2, c3, c4 = (conv(x) for conv, x in zip(head.convs, inputs, strict=True))
    stages = head.upsample_modules
    sources = (c4, stages[0].out, stages[1].out, c3, stages[3].out, c2)
    for stage, x in zip(stages, sources, strict=True):
        assert torch.equal(stage.x, x)
    levels = [c1, stages[5].out, stages[4].out, stages[2].out]
    expected = head.conv_seg(head.fusion_conv(torch.cat(levels, dim=1)))
    assert_close(head(inputs), expected)


@pytest.mark.parametrize(("levels", "stages"), [(2, 1), (3, 3)])
def test_n_levels_have_n_choose_2_stages(levels, stages):
    head = make(levels=levels, upsample_cfg=dict(type=Recorder)).eval()
    assert len(head.upsample_modules) == stages
    assert head(make_maps(IN_CHANNELS[:levels])).shape == (2, 5, 41, 61)


class Segmentor(nn.Module):
    def __init__(self, decode_head: nn.Module) -> None:
        super().__init__()
        self.decode_head = decode_head


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("scope_bias", [False, True], ids=["no-bias", "scope-bias"])
@pytest.mark.parametrize("prefix", ["upsample_modules", "upsamplers"])
def test_checkpoints_of_either_prefix_load(prefix, scope_bias, load, tmp_path):
    saved = Segmentor(make(upsample_cfg=DYSAMPLE_PLUS)).state_dict()
    if scope_bias:
        for n in range(6):
            name = f"decode_head.upsample_modules.{n}."
            saved[name + "scope.bias"] = torch.randn_like(saved[name + "offset.bias"])
    renamed = {key.replace("upsample_modules", prefix): value for key, value in saved.items()}
    names = list(renamed)
    built = Segmentor(make(upsample_cfg=DYSAMPLE_PLUS))
    load(built, renamed, tmp_path)
    assert list(renamed) == names, "the user's dict is not changed"
    loaded = built.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("prefix", ["upsample_modules", "upsamplers"])
@pytest.mark.parametrize(("saved", "built"), [(3, 4), (4, 3)])
def test_a_checkpoint_with_another_number_of_stages_is_refused(
    saved, built, prefix, load, tmp_path
):
    cfg = dict(type="DySample")
    state = Segmentor(make(levels=saved, upsample_cfg=cfg)).state_dict()
    state = {key.replace("upsample_modules", prefix): value for key, value in state.items()}
    stages = {3: 3, 4: 6}
    message = (
        f"the checkpoint's SegFormer head has {stages[saved]} upsampling stages, this one has "
        rf"{stages[built]}: n backbone levels need n\*\(n-1\)/2 stages"
    )
    with pytest.raises(ValueError, match=message):
        load(Segmentor(make(levels=built, upsample_cfg=cfg)), state, tmp_path)


def test_user_errors():
    with pytest.raises(ValueError, match="align_corners=False, got align_corners=True"):
        make(align_corners=True)
    make(align_corners=True, upsample_cfg=dict(type="DySample"))
    with pytest.raises(ValueError, match=r"interpolate_mode must be one of .*'bicubic'"):
        make(interpolate_mode="bicubic")
    with pytest.raises(ValueError, match=r"of in_channels=.*got maps of \[1, 1, 1, 1\] channels"):
        make()([torch.zeros(1, 1, 8, 8)] * 4)


@pytest.mark.slow
def test_exports():
    head = make(upsample_cfg=dict(type="DySample")).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    inputs = make_maps(IN_CHANNELS)
    program = torch.export.export(head, (inputs,), dynamic_shapes=([{0: batch} for _ in inputs],))
    inputs = make_maps(IN_CHANNELS, batch=3)
    assert_close(program.module()(inputs), head(inputs))
