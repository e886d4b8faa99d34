"""The host for Mask2Former against mmdet's pixel decoder, a loop over stages, and its head."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

from mmdet.models.layers import MSDeformAttnPixelDecoder
from mmdet.registry import MODELS
from mmengine.config import ConfigDict

from mmdysample import Bilinear, Nearest, list_upsamplers
from mmdysample.mmdet import UpsampleMSDeformAttnPixelDecoder
from tests.loaders import LENIENT
from tests.mmdet.test_pixel_decoder import assert_bit_equal
from tests.reference.dysample import dysample_torch
from tests.utils import DYSAMPLE_VARIANTS, assert_close, fit, randomize

CHANNELS = 32
OUT_CHANNELS = 40
SIZES = {
    "even": [(16, 24), (8, 12), (4, 6), (2, 3)],
    "odd": [(21, 31), (11, 16), (6, 8), (3, 4)],
    "floored": [(35, 25), (17, 12), (8, 6), (4, 3)],
}
VARIANTS = {name: dict(type="DySample", **cfg) for name, cfg in DYSAMPLE_VARIANTS.items()}
# levels of the backbone, levels that the encoder takes
LAYOUTS = {"mask2former": (4, 3), "two-stages": (4, 2), "none": (3, 3)}


def in_channels(levels=4, encoded=3) -> list[int]:
    """Upstream gives a lateral the channels of another level where there are several."""
    return [16] * (levels - encoded) + [24, 32, 48][:encoded]


def make_inputs(sizes="odd", levels=4, encoded=3, batch=2) -> list[Tensor]:
    """As a backbone gives them: fine to coarse, each half as large, rounded up or down."""
    shapes = zip(in_channels(levels, encoded), SIZES[sizes][:levels], strict=True)
    return [torch.randn(batch, channels, *size) for channels, size in shapes]


def make(cls=UpsampleMSDeformAttnPixelDecoder, levels=4, encoded=3, **kwargs) -> nn.Module:
    attention = dict(
        embed_dims=CHANNELS, num_heads=4, num_levels=encoded, num_points=2, batch_first=True
    )
    settings = dict(
        in_channels=in_channels(levels, encoded),
        strides=[4, 8, 16, 32][:levels],
        feat_channels=CHANNELS,
        out_channels=OUT_CHANNELS,
        num_outs=encoded,
        norm_cfg=dict(type="GN", num_groups=4),
        encoder=ConfigDict(
            num_layers=1,
            layer_cfg=dict(
                self_attn_cfg=attention,
                ffn_cfg=dict(embed_dims=CHANNELS, feedforward_channels=64, num_fcs=2),
            ),
        ),
        positional_encoding=dict(num_feats=CHANNELS // 2, normalize=True),
    )
    return randomize(cls(**copy.deepcopy(settings | kwargs))).eval()


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("cfg", [None, dict(type="Bilinear")], ids=["default", "Bilinear"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bilinear_is_mmdets_pixel_decoder(layout, cfg, sizes):
    levels, encoded = LAYOUTS[layout]
    ours = make(levels=levels, encoded=encoded, upsample_cfg=cfg)
    assert len(ours.upsample_modules) == levels - encoded
    upstream = make(MSDeformAttnPixelDecoder, levels, encoded)
    assert_bit_equal(ours, upstream, make_inputs(sizes, levels, encoded))


@pytest.mark.parametrize("num_outs", [1, 2, 4])
def test_other_numbers_of_outputs_are_mmdets(num_outs):
    ours, upstream = make(num_outs=num_outs), make(MSDeformAttnPixelDecoder, num_outs=num_outs)
    assert_bit_equal(ours, upstream, make_inputs())
    _, outs = ours(make_inputs())
    assert [tuple(out.shape[2:]) for out in outs] == SIZES["odd"][::-1][:num_outs]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("layout", ["mask2former", "two-stages"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_stage_upsamples_what_it_should(variant, layout, sizes):
    """From the encoder's finest level up, fitted at the end."""
    levels, encoded = LAYOUTS[layout]
    # in float64, and moving by whole pixels
    decoder = make(levels=levels, encoded=encoded, upsample_cfg=VARIANTS[variant]).double()
    inputs = [x.double() for x in make_inputs(sizes, levels, encoded)]
    mask_feature, outs = decoder(inputs)
    assert len(outs) == encoded
    y = outs[-1]
    for n in reversed(range(levels - encoded)):
        up = decoder.upsample_modules[n]
        scope = (up.scope.weight,) if up.dyscope else ()
        fine = dysample_torch(
            y, up.offset.weight, up.offset.bias, *scope, groups=up.groups, style=up.style
        )
        lateral = decoder.lateral_convs[n](inputs[n])
        y = decoder.output_convs[n](lateral + fit(fine, *lateral.shape[2:]))
    assert_close(mask_feature, decoder.mask_feature(y))


class Recorder(Nearest):
    """Nearest interpolation that asks for a guide and keeps it."""

    guided = True
    any_size = False

    def forward(self, x, guide=None, size=None):
        self.x, self.guide = x, guide
        return super().forward(x, guide, size)


def test_the_guide_is_the_lateral():
    decoder = make(upsample_cfg=dict(type=Recorder))
    inputs = make_inputs()
    _, outs = decoder(inputs)
    (stage,) = decoder.upsample_modules
    assert (stage.in_channels, stage.guide_channels, stage.scale_factor) == (32, 32, 2)
    assert torch.equal(stage.guide, decoder.lateral_convs[0](inputs[0]))
    assert torch.equal(stage.x, outs[-1])


@pytest.mark.parametrize("name", list_upsamplers())
def test_every_upsampler_passes_through(name):
    decoder = make(upsample_cfg=dict(type=name)).train()
    decoder.init_weights()
    mask_feature, _ = decoder(make_inputs())
    assert mask_feature.shape == (2, OUT_CHANNELS, *SIZES["odd"][0])
    mask_feature.square().mean().backward()
    for key, parameter in decoder.upsample_modules.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key


def test_upsamplers_keep_their_own_initialization():
    decoder = make(upsample_cfg=dict(type="DySample", dyscope=True))
    randomize(decoder, 77.0)
    decoder.init_weights()
    (stage,) = decoder.upsample_modules
    assert 0.0008 < stage.offset.weight.std() < 0.0012
    assert not stage.offset.bias.any() and not stage.scope.weight.any()
    assert decoder.mask_feature.weight.abs().max() < 1 and not decoder.mask_feature.bias.any()


@pytest.mark.parametrize("load", LENIENT)
def test_a_checkpoint_of_mmdets_pixel_decoder_loads(load, tmp_path):
    upstream = make(MSDeformAttnPixelDecoder)
    decoder = make(upsample_cfg=dict(type="DySample"))
    ours = {k: v.clone() for k, v in decoder.state_dict().items() if k.startswith("upsample")}
    assert ours.keys() == {
        f"upsample_modules.0.{name}" for name in ("offset.weight", "offset.bias", "init_pos")
    }
    load(decoder, upstream.state_dict(), tmp_path)
    state = decoder.state_dict()
    for name, value in (upstream.state_dict() | ours).items():
        assert torch.equal(state[name], value), name


def test_a_copy_stands_for_itself():
    decoder = make(upsample_cfg=dict(type="DySample"))
    inputs = make_inputs()
    expected, _ = decoder(inputs)
    copied = copy.deepcopy(decoder)
    randomize(decoder, 3.0)
    assert torch.equal(copied(inputs)[0], expected)


def make_head(cls: type[nn.Module], decoder: str, **kwargs) -> nn.Module:
    attention = dict(embed_dims=CHANNELS, num_heads=4, batch_first=True)
    settings = dict(
        in_channels=in_channels(),
        feat_channels=CHANNELS,
        out_channels=CHANNELS,
        num_queries=5,
        num_transformer_feat_level=3,
        pixel_decoder=ConfigDict(
            type=decoder,
            norm_cfg=dict(type="GN", num_groups=4),
            encoder=dict(
                num_layers=1,
                layer_cfg=dict(
                    self_attn_cfg=dict(attention, num_levels=3, num_points=2),
                    ffn_cfg=dict(embed_dims=CHANNELS, feedforward_channels=64, num_fcs=2),
                ),
            ),
            positional_encoding=dict(num_feats=CHANNELS // 2, normalize=True),
        ),
        positional_encoding=dict(num_feats=CHANNELS // 2, normalize=True),
        transformer_decoder=ConfigDict(
            return_intermediate=True,
            num_layers=2,
            layer_cfg=dict(
                self_attn_cfg=attention,
                cross_attn_cfg=attention,
                ffn_cfg=dict(embed_dims=CHANNELS, feedforward_channels=64, num_fcs=2),
            ),
            init_cfg=None,
        ),
        loss_cls=ConfigDict(type="CrossEntropyLoss", class_weight=[1.0] * 134),
        loss_mask=ConfigDict(type="CrossEntropyLoss", use_sigmoid=True),
        loss_dice=ConfigDict(type="DiceLoss"),
    )
    return cls(**copy.deepcopy(settings) | kwargs).eval()


@pytest.mark.parametrize("package", ["mmdet", "mmseg"])
def test_heads_take_it(package):
    """mmdet's and mmseg's Mask2FormerHead give upstream's outputs with it."""
    pytest.importorskip(package, reason=f"needs {package}: bash tools/setup_env.sh installs it")
    if package == "mmdet":
        from mmdet.models.dense_heads import Mask2FormerHead
        from mmdet.structures import DetDataSample as DataSample

        kwargs = {}
    else:
        from mmseg.models.decode_heads import Mask2FormerHead
        from mmseg.structures import SegDataSample as DataSample

        kwargs = dict(num_classes=7)
    upstream = make_head(Mask2FormerHead, "mmdet.MSDeformAttnPixelDecoder", **kwargs)
    ours = make_head(Mask2FormerHead, "mmdet.UpsampleMSDeformAttnPixelDecoder", **kwargs)
    assert type(ours.pixel_decoder) is UpsampleMSDeformAttnPixelDecoder
    ours.load_state_dict(upstream.state_dict(), strict=True)
    inputs = make_inputs()
    samples = [DataSample(metainfo=dict(img_shape=(84, 124)))] * 2
    for mine, theirs in zip(ours(inputs, samples), upstream(inputs, samples), strict=True):
        assert len(mine) == len(theirs) and all(map(torch.equal, mine, theirs))


def test_builds_from_a_config():
    cfg = ConfigDict(
        type="UpsampleMSDeformAttnPixelDecoder",
        encoder=dict(
            num_layers=1,
            layer_cfg=dict(
                self_attn_cfg=dict(num_levels=3, batch_first=True),
                ffn_cfg=dict(num_fcs=2),
            ),
        ),
        upsample_cfg=dict(type="DySample", groups=8),
    )
    decoder = MODELS.build(cfg)
    assert [(up.groups, up.in_channels) for up in decoder.upsample_modules] == [(8, 256)]
    del cfg.upsample_cfg
    assert [type(up) for up in MODELS.build(cfg).upsample_modules] == [Bilinear]


def test_user_errors():
    with pytest.raises(TypeError, match=r"dict with the key 'type'.*got \{'mode': 'nearest'\}"):
        make(upsample_cfg=dict(mode="nearest"))
    with pytest.raises(ValueError, match=r"upsample_cfg sets in_channels=256.*needs 32 here"):
        make(upsample_cfg=dict(type="DySample", in_channels=256))


def test_the_top_down_path_compiles_in_one_graph():
    """mmdet's encoder, which comes before it, reads sizes from tensors: it breaks the graph."""
    decoder = make(upsample_cfg=dict(type="DySample"))
    inputs = make_inputs()
    _, outs = decoder(inputs)
    torch.compiler.reset()
    path = torch.compile(decoder.climb, fullgraph=True, backend="aot_eager")
    assert_close(path(outs[-1], inputs)[-1], decoder.climb(outs[-1], inputs)[-1])
