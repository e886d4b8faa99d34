"""DenseDepthHead against a second implementation, and what hosts of upsamplers keep."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmdysample.mmseg.depth import DenseDepthHead
from tests.host_contract import SIZES, Recorder, make_maps, outputs_and_gradients
from tests.reference.depthformer import dense_depth_head
from tests.utils import assert_close, randomize

IN_CHANNELS = [8, 16, 32, 64]
DYSAMPLE_PLUS = dict(type="DySample", dyscope=True)


def make(**kwargs) -> DenseDepthHead:
    return randomize(DenseDepthHead(**dict(in_channels=IN_CHANNELS) | kwargs))


def call(head, inputs) -> list[torch.Tensor]:
    return [head(inputs)]


@pytest.mark.parametrize("sizes", SIZES)
def test_by_default_it_interpolates_with_aligned_corners(sizes):
    """Depth is relu(.) + 1e-3 of what the reference gives."""
    head = make()
    inputs = make_maps(IN_CHANNELS, sizes)
    expected = dense_depth_head(
        head.state_dict(),
        inputs,
        lambda n, x, skip: F.interpolate(
            x, size=skip.shape[2:], mode="bilinear", align_corners=True
        ),
    )
    assert (expected > 0).any() and (expected < 0).any()
    assert_close(head(inputs), expected.clamp(min=0) + 1e-3)
    assert {(type(up).__name__, up.align_corners) for up in head.upsample_modules} == {
        ("Bilinear", True)
    }


@pytest.mark.parametrize("sizes", SIZES)
def test_each_stage_upsamples_the_last_and_is_guided_by_the_next_map(sizes):
    head = make(upsample_cfg=dict(type=Recorder)).eval()
    inputs = make_maps(IN_CHANNELS, sizes)
    stages = head.upsample_modules
    assert [up.in_channels for up in stages] == [64, 32, 16]
    assert [up.guide_channels for up in stages] == [32, 16, 8]
    out = head(inputs)

    def upsample(n, x, skip):
        assert_close(stages[n].x, x)
        assert torch.equal(stages[n].guide, skip)
        return stages[n].out

    expected = dense_depth_head(head.state_dict(), inputs, upsample)
    assert_close(out, expected.clamp(min=0) + 1e-3)


def test_scale_up_is_a_share_of_the_largest_depth():
    head = make(scale_up=True, max_depth=80.0, min_depth=0.5)
    inputs = make_maps(IN_CHANNELS)
    head.scale_up = False
    relu = head(inputs) - 0.5
    head.scale_up = True
    depth = head(inputs)
    assert (relu == 0).any(), "where a ReLU passes nothing on"
    assert ((depth > 0) & (depth < 80)).all()
    alive = relu > 0
    assert_close(depth[alive], 80 / (1 + torch.exp(-relu[alive])))


def test_the_levels_of_the_backbone_can_be_chosen():
    head = make(in_channels=[8, 32], in_index=[0, 2])
    assert head(make_maps(IN_CHANNELS)).shape == (2, 1, 41, 61)
    assert len(head.upsample_modules) == 1


@pytest.mark.parametrize(
    ("kind", "sizes"), [("DySample", "odd"), ("DySample", "floored"), ("SAPA", "odd")]
)
def test_a_gradient_reaches_every_upsampler(kind, sizes):
    head = DenseDepthHead(IN_CHANNELS, upsample_cfg=dict(type=kind))
    head.init_weights()
    _, grads = outputs_and_gradients(head, make_maps(IN_CHANNELS, sizes), call)
    of_upsamplers = {n: g for n, g in grads.items() if "upsample_modules" in n}
    assert len(of_upsamplers) >= 6
    for name, grad in of_upsamplers.items():
        assert grad is not None and torch.isfinite(grad).all() and grad.any(), name


def test_upsamplers_keep_their_own_initialization():
    head = randomize(make(upsample_cfg=DYSAMPLE_PLUS), 77.0)
    head.init_weights()
    for stage in head.upsample_modules:
        assert 0.0007 < stage.offset.weight.std() < 0.0013
        assert not stage.offset.bias.any() and not stage.scope.weight.any()
        assert stage.init_pos.abs().max() == 0.25


@pytest.mark.parametrize("kind", ["DySample", "SAPA"])
@pytest.mark.parametrize("scale_up", [True, False])
@torch.no_grad()
def test_autocast(kind, scale_up):
    head = make(upsample_cfg=dict(type=kind), scale_up=scale_up).eval()
    inputs = make_maps(IN_CHANNELS)
    expected = head(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = head(inputs)
        predicted = head.predict(inputs, [dict(img_shape=(82, 121))], None)
    assert out.dtype == torch.float32
    assert (out - expected).std() < 0.1 * expected.std()
    assert predicted.dtype == torch.float32


def test_a_copy_stands_for_itself():
    head = make(upsample_cfg=dict(type="DySample"), scale_up=True).eval()
    inputs = make_maps(IN_CHANNELS)
    expected = head(inputs)
    copied = copy.deepcopy(head)
    randomize(head, 3.0)
    assert torch.equal(copied(inputs), expected)
    assert not torch.equal(head(inputs), expected)


def test_the_settings_of_upsamplers_are_left_as_they_are():
    settings = dict(type="DySample", groups=8)
    head = make(upsample_cfg=settings)
    assert [up.groups for up in head.upsample_modules] == [8] * 3
    assert settings == dict(type="DySample", groups=8)


def test_user_errors():
    with pytest.raises(TypeError, match=r"dict with the key 'type'.*got \{'mode': 'nearest'\}"):
        make(upsample_cfg=dict(mode="nearest"))
    with pytest.raises(ValueError, match=r"two maps or more, fine to coarse, got \[64\]"):
        make(in_channels=[64])
    with pytest.raises(TypeError, match=r"scale_up must be True or False, got 'yes'"):
        make(scale_up="yes")
    for name, value in (("channels", 64), ("num_classes", 1), ("dropout_ratio", 0.1)):
        with pytest.raises(TypeError, match=f"DenseDepthHead takes no {name}: a head for depth"):
            make(**{name: value})
    with pytest.raises(ValueError, match=r"DenseDepthHead takes .*got maps of \[1, 1, 1, 1\]"):
        make()([torch.zeros(1, 1, 8, 8)] * 4)
