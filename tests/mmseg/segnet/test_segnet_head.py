"""SegNetHead against a second implementation, and what every upsampler is given in it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from torch import nn

from mmdysample.mmseg import SegNetHead
from mmdysample.mmseg.segnet.max_unpool import MaxUnpool
from tests.host_contract import Recorder
from tests.reference.segnet import decoder, max_pool, max_unpool
from tests.utils import assert_close, fit, randomize

NUM_CONVS, WIDTHS = (1, 3, 2), (8, 16, 32)
SIZES = {"even": (32, 24), "odd": (37, 29), "least": (8, 8)}
# One of each kind: fixed, of the decoder alone, of the encoder alone, of both.
KINDS = {
    "max-unpool": None,
    "nearest": dict(type="Nearest"),
    "bilinear": dict(type="Bilinear"),
    "dysample": dict(type="DySample"),
    "carafe": dict(type="CARAFE"),
    "indexnet": dict(type="IndexNet"),
    "sapa-i": dict(type="SAPA", variant="i"),
    "fade": dict(type="FADE"),
}


def make(upsample_cfg=None, **settings) -> SegNetHead:
    defaults = dict(
        num_convs=NUM_CONVS,
        widths=WIDTHS,
        num_classes=5,
        dropout_ratio=0,
        norm_cfg=dict(type="BN"),
        align_corners=False,
    )
    with DefaultScope.overwrite_default_scope("mmseg"):
        head = SegNetHead(upsample_cfg=upsample_cfg, **defaults | settings)
    randomize(head, 0.2)
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return head


def make_maps(size, batch=2, widths=WIDTHS) -> list[torch.Tensor]:
    """An encoder's: positive, and each pooled from the one before but for its channels."""
    maps = [
        torch.rand(batch, channels, size[0] >> n, size[1] >> n) for n, channels in enumerate(widths)
    ]
    return [*maps, max_pool(maps[-1])]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_a_second_implementation(kind, size):
    """The upsamplers have references of their own: here they are called as they are."""
    head, maps = make(KINDS[kind]).eval(), make_maps(SIZES[size])

    def upsample(stage, x, guide):
        if kind == "max-unpool":
            return max_unpool(x, guide)
        if kind == "nearest":
            return F.interpolate(x, size=guide.shape[2:], mode="nearest")
        if kind == "bilinear":
            return F.interpolate(x, size=guide.shape[2:], mode="bilinear", align_corners=False)
        doubled = tuple(2 * length for length in x.shape[2:])
        out = head.upsample_modules[stage](x, fit(guide, *doubled))
        return fit(out, *guide.shape[2:])

    with torch.no_grad():
        out = head(maps)
        expected = decoder(maps, head.state_dict(), NUM_CONVS, upsample)
    assert out.shape == (2, 5, *SIZES[size])
    assert out.std() > 1e-3
    assert_close(out, expected)


def test_the_guide_of_a_stage_is_the_map_before_the_pool():
    head, maps = make(dict(type=Recorder)).eval(), make_maps((37, 29))
    head(maps)
    assert [up.in_channels for up in head.upsample_modules] == [32, 16, 8]
    for stage, guide in zip(head.upsample_modules, (maps[2], maps[1], maps[0]), strict=True):
        assert stage.guide is guide
        assert stage.guide_channels == stage.in_channels == guide.shape[1]
    assert head.upsample_modules[0].x is maps[3]


def test_convolutions_mirror_the_encoders():
    """VGG-16's, 13 of them: the last of a stage goes to the width of the next."""
    head = make(dict(type="Nearest"), num_convs=(2, 2, 3, 3, 3), widths=(64, 128, 256, 512, 512))
    shapes = [[tuple(m.conv.weight.shape[:2]) for m in stage] for stage in head.stages]
    assert shapes == [
        [(512, 512)] * 3,
        [(512, 512), (512, 512), (256, 512)],
        [(256, 256), (256, 256), (128, 256)],
        [(128, 128), (64, 128)],
        [(64, 64), (64, 64)],
    ]
    assert head.conv_seg.weight.shape == (5, 64, 1, 1)
    assert make(channels=24).conv_seg.weight.shape == (5, 24, 1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_reaches_every_parameter(kind):
    head = make(KINDS[kind])
    head.init_weights()
    maps = [x.requires_grad_() for x in make_maps((37, 29))]
    head(maps).square().mean().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert maps[-1].grad.any()
    guided = kind in ("indexnet", "sapa-i", "fade")
    for guide in maps[:-1]:
        assert (guide.grad is not None and bool(guide.grad.any())) == guided


def test_upsamplers_keep_their_own_initialization():
    head = randomize(make(dict(type="DySample")), 77.0)
    head.init_weights()
    for stage in head.upsample_modules:
        assert 0.0005 < stage.offset.weight.std() < 0.0015
        assert not stage.offset.bias.any()


class TestMaxUnpool:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_it_is_pytorchs(self, size, dtype):
        guide = torch.randn(2, 4, *SIZES[size], dtype=dtype)
        pooled, indices = F.max_pool2d(guide, 2, return_indices=True)
        x = torch.randn_like(pooled)
        expected = F.max_unpool2d(x, indices, 2, output_size=guide.shape[2:])
        out = MaxUnpool()(x, guide)
        assert out.dtype == dtype and torch.equal(out, expected)

    def test_the_first_of_equal_pixels(self):
        """In a map after ReLU most windows are of zeros."""
        guide = torch.zeros(1, 1, 4, 4)
        guide[0, 0, 1, 3] = guide[0, 0, 1, 2] = 1.0
        x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        out = MaxUnpool()(x, guide)
        expected = torch.zeros(4, 4)
        expected[0, 0], expected[1, 2], expected[2, 0], expected[2, 2] = 1.0, 2.0, 3.0, 4.0
        assert torch.equal(out[0, 0], expected)
        assert torch.equal(out, max_unpool(x, guide))

    def test_pooling_a_pools_input_by_its_own_output_gives_it_back(self):
        guide = torch.rand(1, 3, 9, 7)
        pooled = max_pool(guide)
        assert torch.equal(max_pool(MaxUnpool()(pooled, guide)), pooled)


def test_what_a_user_can_get_wrong():
    head = make(dict(type="Nearest"))
    with pytest.raises(ValueError, match=r"in_channels=\[8, 16, 32, 32\], got maps of \[8, 16, 3"):
        head(make_maps((32, 24), widths=(8, 16, 31)))
    for widths in ((8, 16), (8, 16, 32, 32)):  # an encoder of fewer stages, and of more
        with pytest.raises(ValueError, match=r"SegNetHead takes feature maps of in_channels="):
            head(make_maps((32, 24), widths=widths))
    with pytest.raises(ValueError, match=r"SegNetHead takes num_convs and widths of as many"):
        make(num_convs=(1, 1))
    with pytest.raises(TypeError, match=r"SegNetHead has no argument 'in_index' \(given \[0\]\)"):
        make(in_index=[0])
    with pytest.raises(ValueError, match="unknown upsampler 'Neerest'"):
        make(dict(type="Neerest"))


def test_a_segmentor_is_tested_on_odd_sizes():
    """Logits are at the size of the image: no pixel is interpolated."""
    cfg = dict(
        type="EncoderDecoder",
        backbone=dict(type="VGG", num_convs=NUM_CONVS, widths=WIDTHS),
        decode_head=dict(
            type="SegNetHead",
            num_convs=NUM_CONVS,
            widths=WIDTHS,
            num_classes=5,
            norm_cfg=dict(type="BN"),
            align_corners=False,
            upsample_cfg=dict(type="SAPA", variant="b", embedding_dim=8),
        ),
        train_cfg=dict(),
        test_cfg=dict(mode="whole"),
    )
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(cfg).eval()
    image = torch.randn(1, 3, 37, 29)
    meta = [dict(img_shape=(37, 29), ori_shape=(37, 29))]
    with torch.no_grad():
        logits = model.encode_decode(image, meta)
        assert torch.equal(logits, model.decode_head(model.backbone(image)))
    assert logits.shape == (1, 5, 37, 29)
