"""UpsampleFCNMaskHead against mmdet's FCNMaskHead, references, and checkpoints."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

from mmdet.models.roi_heads.mask_heads import (
    DynamicMaskHead,
    FCNMaskHead,
    HTCMaskHead,
    SCNetMaskHead,
)
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from mmdysample import list_upsamplers
from mmdysample.mmdet import (
    UpsampleDynamicMaskHead,
    UpsampleFCNMaskHead,
    UpsampleHTCMaskHead,
    UpsampleSCNetMaskHead,
)
from mmdysample.registry import get_upsampler
from tests.host_contract import assert_bit_equal, outputs_and_gradients
from tests.reference.dysample import dysample_torch
from tests.utils import DYSAMPLE_VARIANTS, assert_close, randomize

SIZES = dict(in_channels=16, conv_out_channels=32, num_convs=2, num_classes=3)


def make(cls=UpsampleFCNMaskHead, **kwargs) -> nn.Module:
    return randomize(cls(**SIZES | kwargs))


def call(head: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    return [head(*inputs)]


@pytest.mark.parametrize("num_convs", [0, 2])
@pytest.mark.parametrize("scale_factor", [2, 3])
@pytest.mark.parametrize(
    ("ours", "upstream"),
    [
        ("deconv", "deconv"),
        ("nearest", "nearest"),
        ("bilinear", "bilinear"),
        ("Nearest", "nearest"),
        ("Bilinear", "bilinear"),
    ],
)
def test_upstreams_interpolations_are_upstreams_head(ours, upstream, scale_factor, num_convs):
    heads = [
        make(cls, num_convs=num_convs, upsample_cfg=dict(type=kind, scale_factor=scale_factor))
        for cls, kind in ((UpsampleFCNMaskHead, ours), (FCNMaskHead, upstream))
    ]
    assert_bit_equal(*heads, [torch.randn(2, 16, 7, 7)], call)


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_the_default_is_upstreams(class_agnostic):
    kwargs = dict(class_agnostic=class_agnostic, norm_cfg=dict(type="BN"))
    assert_bit_equal(make(**kwargs), make(FCNMaskHead, **kwargs), [torch.randn(2, 16, 7, 7)], call)


def test_no_upsampler_is_upstreams_too():
    cfg = dict(upsample_cfg=dict(type=None))
    assert_bit_equal(make(**cfg), make(FCNMaskHead, **cfg), [torch.randn(2, 16, 7, 7)], call)


@pytest.mark.parametrize("variant", DYSAMPLE_VARIANTS)
def test_dysample_is_between_the_convolutions_and_the_last_layer(variant):
    head = make(upsample_cfg=dict(type="DySample", **DYSAMPLE_VARIANTS[variant]))
    x = torch.randn(2, 16, 7, 7)
    up = head.upsample
    scope = (up.scope.weight,) if up.dyscope else ()
    features = head.convs[1](head.convs[0](x))
    fine = dysample_torch(
        features, up.offset.weight, up.offset.bias, *scope, groups=up.groups, style=up.style
    )
    weight = head.conv_logits.weight[:, :, 0, 0]
    expected = torch.einsum("oc,bchw->bohw", weight, fine) + head.conv_logits.bias[:, None, None]
    assert expected.shape == (2, 3, 14, 14)
    assert_close(head(x), expected, torch.float32)


@pytest.mark.parametrize("kind", ["DySample", "CARAFE"])
def test_a_gradient_reaches_every_parameter(kind):
    head = MODELS.build(
        dict(
            type="UpsampleFCNMaskHead",
            upsample_cfg=dict(type=kind),
            loss_mask=dict(type="CrossEntropyLoss", use_mask=True, loss_weight=1.0),
            **SIZES,
        )
    )
    head.init_weights()
    (out,), grads = outputs_and_gradients(head, [torch.randn(3, 16, 14, 14)], call)
    assert out.shape == (3, 3, 28, 28)
    for name, grad in grads.items():
        assert grad is not None and torch.isfinite(grad).all(), name


@pytest.mark.parametrize(
    "cfg",
    [dict(type="DySample"), dict(type="DySample", style="pl"), dict(type="CARAFE"), None],
    ids=str,
)
def test_no_region_at_all(cfg):
    """As a batch without positive proposals gives."""
    head = make(upsample_cfg=cfg)
    (out,), grads = outputs_and_gradients(head, [torch.randn(0, 16, 14, 14)], call)
    assert out.shape == (0, 3, 28, 28)
    for name, grad in grads.items():
        assert grad is not None and not grad.any(), name


def test_a_guided_upsampler_is_refused():
    unguided = [name for name in list_upsamplers() if not get_upsampler(name).guided]
    accepted = ", ".join(unguided)
    with pytest.raises(ValueError, match=f"no finer feature to guide SAPA; .*: {accepted}$"):
        make(upsample_cfg=dict(type="SAPA"))


@pytest.mark.parametrize(
    ("cfg", "error", "message"),
    [
        (dict(type="DySampel"), ValueError, r"unknown upsampler 'DySampel' \(did you mean 'DyS"),
        (dict(groups=4), TypeError, "upsample_cfg must be a dict with the key 'type'"),
        ("DySample", TypeError, "upsample_cfg must be a dict with the key 'type'"),
        (dict(type="DySample", scale_factor=0), ValueError, "scale_factor must be an integer >= 1"),
        (dict(type="DySample", in_channels=8), ValueError, "in_channels=8, but the model needs 32"),
    ],
)
def test_wrong_settings_are_named(cfg, error, message):
    with pytest.raises(error, match=message):
        make(upsample_cfg=cfg)


def test_upsamplers_keep_their_own_initialization():
    head = make(conv_out_channels=256, upsample_cfg=dict(type="DySample"))
    head.init_weights()
    assert 0.0009 < head.upsample.offset.weight.std() < 0.0011
    assert not head.upsample.offset.bias.any()
    # Kaiming-normal over the 3 outputs, as FCNMaskHead has it
    assert 0.7 < head.conv_logits.weight.std() / (2 / 3) ** 0.5 < 1.3


def test_checkpoints_of_upstreams_head_load_but_for_the_upsampler():
    upstream, ours = make(FCNMaskHead), make(upsample_cfg=dict(type="DySample"))
    result = ours.load_state_dict(upstream.state_dict(), strict=False)
    assert set(result.unexpected_keys) == {"upsample.weight", "upsample.bias"}
    missing = {"upsample.offset.weight", "upsample.offset.bias", "upsample.init_pos"}
    assert set(result.missing_keys) == missing


def test_masks_are_pasted_into_the_image():
    """The prediction of upstream's class runs on our masks: a box full of foreground."""
    head = make(upsample_cfg=dict(type="DySample"))
    with torch.no_grad():
        head.conv_logits.weight.zero_()
        head.conv_logits.bias.fill_(9.0)
    results = InstanceData(
        bboxes=torch.tensor([[4.0, 8.0, 20.0, 16.0]]),
        labels=torch.tensor([1]),
        scores=torch.ones(1),
    )
    (predicted,) = head.predict_by_feat(
        (head(torch.randn(1, 16, 14, 14)),),
        [results],
        [dict(ori_shape=(32, 40), img_shape=(32, 40), scale_factor=(1.0, 1.0))],
        ConfigDict(mask_thr_binary=0.5),
    )
    expected = torch.zeros(32, 40, dtype=torch.bool)
    expected[8:16, 4:20] = True
    assert torch.equal(predicted.masks[0], expected)


@pytest.mark.parametrize("kind", ["deconv", "nearest", "bilinear"])
def test_upstreams_types_also_enlarge_twice_by_default(kind):
    head = make(upsample_cfg=dict(type=kind))
    assert head(torch.randn(2, 16, 5, 7)).shape == (2, 3, 10, 14)


def call_htc(head: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    """As HTC does: the features of each stage go into the next."""
    logits, features = head(inputs[0])
    later = head(inputs[0], features, return_feat=False)
    return [logits, features, later, head(inputs[0], return_logits=False)]


def call_dynamic(head: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    return [head(inputs[0], inputs[0].mean((2, 3)))]


DYNAMIC = dict(
    conv_out_channels=16,
    dynamic_conv_cfg=dict(
        type="DynamicConv", in_channels=16, feat_channels=8, input_feat_shape=14, with_proj=False
    ),
)
DERIVED = {
    "htc": (UpsampleHTCMaskHead, HTCMaskHead, dict(conv_out_channels=16), call_htc),
    "scnet": (UpsampleSCNetMaskHead, SCNetMaskHead, dict(norm_cfg=dict(type="BN")), call),
    "queryinst": (UpsampleDynamicMaskHead, DynamicMaskHead, DYNAMIC, call_dynamic),
}


@pytest.mark.parametrize("name", DERIVED)
def test_heads_that_are_derived_from_upstreams(name):
    """They are upstream's with its upsampling, and what UpsampleFCNMaskHead is with another."""
    cls, upstream, settings, run = DERIVED[name]
    inputs = [torch.randn(2, 16, 14, 14)]
    for ours in (None, dict(type="bilinear")):
        theirs = {} if ours is None else dict(upsample_cfg=dict(type="bilinear", scale_factor=2))
        heads = make(cls, upsample_cfg=ours, **settings), make(upstream, **settings, **theirs)
        assert_bit_equal(*heads, inputs, run)

    settings = settings | dict(upsample_cfg=dict(type="DySample"))
    head = MODELS.build(dict(type=cls.__name__, **SIZES | settings))
    head.init_weights()
    assert 0.0005 < head.upsample.offset.weight.std() < 0.002
    assert not head.upsample.offset.bias.any()
    outs, grads = outputs_and_gradients(head, inputs, run)
    assert outs[0].shape == (2, 3, 28, 28)
    of_upsampler = {key: grad for key, grad in grads.items() if key.startswith("upsample.")}
    assert of_upsampler and all(grad is not None and grad.any() for grad in of_upsampler.values())
    with pytest.raises(ValueError, match=f"^{cls.__name__} has no finer feature to guide FADE"):
        make(cls, **settings | dict(upsample_cfg=dict(type="FADE")))
