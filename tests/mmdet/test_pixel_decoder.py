"""The hosts for MaskFormer against mmdet's pixel decoders, and its heads."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

from mmdet.models.dense_heads import MaskFormerHead
from mmdet.models.layers import PixelDecoder, TransformerEncoderPixelDecoder
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict

from mmdysample.mmdet import UpsampleMaskFormerHead
from mmdysample.mmdet.pixel_decoder import (
    UpsamplePixelDecoder,
    UpsampleTransformerEncoderPixelDecoder,
)
from tests.host_contract import SIZES, HostContract, assert_bit_equal, make_maps
from tests.utils import randomize

IN_CHANNELS = [8, 16, 24, 48]
CHANNELS = 32
OUT_CHANNELS = 40
ENCODER = dict(
    encoder=ConfigDict(
        num_layers=1,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=CHANNELS, num_heads=4, batch_first=True),
            ffn_cfg=dict(embed_dims=CHANNELS, feedforward_channels=64, num_fcs=2, ffn_drop=0.0),
        ),
    ),
    positional_encoding=dict(num_feats=CHANNELS // 2, normalize=True),
)


def metas_of(finest: tuple[int, int], batch: int = 2) -> list[dict]:
    """Images as large as the batch and a last one that is smaller than the others, padded."""
    height, width = (4 * length for length in finest)
    metas = [dict(batch_input_shape=(height, width), img_shape=(height, width))] * (batch - 1)
    return [*metas, dict(batch_input_shape=(height, width), img_shape=(height - 40, width - 70))]


def call(decoder: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    """Mask feature and memory."""
    return list(decoder(inputs, metas_of(inputs[0].shape[2:])))


class TestPixelDecoder(HostContract):
    in_channels = IN_CHANNELS

    def make(self, upsample_cfg=None, cls=UpsamplePixelDecoder, **kwargs):
        norm = dict(type="GN", num_groups=4)
        kwargs = dict(norm_cfg=norm, upsample_cfg=upsample_cfg) | kwargs
        return randomize(cls(IN_CHANNELS, CHANNELS, OUT_CHANNELS, **kwargs))

    def make_upstream(self):
        norm = dict(type="GN", num_groups=4)
        return randomize(PixelDecoder(IN_CHANNELS, CHANNELS, OUT_CHANNELS, norm_cfg=norm))

    def call(self, module, inputs):
        return call(module, inputs)


class TestTransformerEncoderPixelDecoder(TestPixelDecoder):
    test_compiles_in_one_graph = None  # nothing more than of the class above

    def make(self, upsample_cfg=None):
        cls = UpsampleTransformerEncoderPixelDecoder
        return super().make(upsample_cfg, cls, **copy.deepcopy(ENCODER)).eval()

    def make_upstream(self):
        norm = dict(type="GN", num_groups=4)
        settings = dict(norm_cfg=norm, **copy.deepcopy(ENCODER))
        decoder = TransformerEncoderPixelDecoder(IN_CHANNELS, CHANNELS, OUT_CHANNELS, **settings)
        return randomize(decoder).eval()


def test_other_layers_are_mmdets_too():
    layers = dict(norm_cfg=None, act_cfg=dict(type="LeakyReLU"))
    ours = UpsamplePixelDecoder(IN_CHANNELS, CHANNELS, OUT_CHANNELS, **layers)
    upstream = randomize(PixelDecoder(IN_CHANNELS, CHANNELS, OUT_CHANNELS, **layers))
    assert_bit_equal(ours, upstream, make_maps(IN_CHANNELS), call)


@pytest.mark.parametrize("levels", [1, 2])
def test_fewer_levels(levels):
    """One level has nothing to climb."""
    ours = UpsamplePixelDecoder(IN_CHANNELS[-levels:], CHANNELS, OUT_CHANNELS)
    assert len(ours.upsample_modules) == levels - 1
    upstream = randomize(PixelDecoder(IN_CHANNELS[-levels:], CHANNELS, OUT_CHANNELS))
    assert_bit_equal(ours, upstream, make_maps(IN_CHANNELS)[-levels:], call)


def make_head(cls, decoder="PixelDecoder", in_channels=IN_CHANNELS, **kwargs) -> nn.Module:
    attention = dict(embed_dims=CHANNELS, num_heads=4, batch_first=True)
    settings = dict(
        in_channels=list(in_channels),
        feat_channels=CHANNELS,
        out_channels=CHANNELS,
        num_queries=5,
        pixel_decoder=ConfigDict(type=decoder, norm_cfg=dict(type="GN", num_groups=4)),
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
        loss_cls=ConfigDict(type="CrossEntropyLoss", class_weight=[1.0] * 133 + [0.1]),
        loss_mask=ConfigDict(type="FocalLoss"),
        loss_dice=ConfigDict(type="DiceLoss"),
    )
    if decoder.endswith("TransformerEncoderPixelDecoder"):
        settings["pixel_decoder"].update(copy.deepcopy(ENCODER))
    return cls(**settings | kwargs)


def assert_same_projection(ours: nn.Module, upstream: nn.Module) -> None:
    assert isinstance(upstream.decoder_input_proj, nn.Conv2d)
    assert repr(ours.decoder_input_proj) == repr(upstream.decoder_input_proj)
    ours.load_state_dict(upstream.state_dict(), strict=True)


def assert_same_outputs(ours: nn.Module, upstream: nn.Module, inputs: list[Tensor]) -> None:
    samples = [DetDataSample(metainfo=meta) for meta in metas_of((41, 61))]
    for mine, theirs in zip(ours(inputs, samples), upstream(inputs, samples), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("channels", "enforce"),
    [(48, False), (48, True), (CHANNELS, True)],
    ids=["other-channels", "other-channels-enforced", "same-channels-enforced"],
)
def test_the_head_keeps_its_input_projection(channels, enforce):
    """With equal channels a lost projection would raise no error: the head would just be worse."""
    settings = dict(
        in_channels=[*IN_CHANNELS[:-1], channels], enforce_decoder_input_project=enforce
    )
    ours = make_head(UpsampleMaskFormerHead, **settings).eval()
    upstream = randomize(make_head(MaskFormerHead, **settings)).eval()
    assert type(ours.pixel_decoder) is UpsamplePixelDecoder
    assert_same_projection(ours, upstream)
    inputs = [*make_maps(IN_CHANNELS)[:-1], torch.randn(2, channels, *SIZES["odd"][-1])]
    assert_same_outputs(ours, upstream, inputs)


def test_a_decoder_with_an_encoder_needs_no_projection():
    """Its memory has the transformer's channels already."""
    ours = make_head(UpsampleMaskFormerHead, "TransformerEncoderPixelDecoder").eval()
    upstream = randomize(make_head(MaskFormerHead, "TransformerEncoderPixelDecoder")).eval()
    assert type(ours.pixel_decoder) is UpsampleTransformerEncoderPixelDecoder
    assert isinstance(ours.decoder_input_proj, nn.Identity)
    ours.load_state_dict(upstream.state_dict(), strict=True)
    assert_same_outputs(ours, upstream, make_maps(IN_CHANNELS))


def test_mmsegs_head_keeps_its_input_projection():
    pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")
    from mmseg.models.decode_heads import MaskFormerHead as MMSegMaskFormerHead

    from mmdysample.mmseg.maskformer_head import UpsampleMaskFormerHead as MMSegHost

    settings = dict(decoder="mmdet.PixelDecoder", num_classes=7, enforce_decoder_input_project=True)
    for channels in (48, CHANNELS):
        settings["in_channels"] = [*IN_CHANNELS[:-1], channels]
        ours = make_head(MMSegHost, upsample_cfg=dict(type="Nearest"), **settings)
        assert type(ours.pixel_decoder) is UpsamplePixelDecoder
        assert_same_projection(ours, make_head(MMSegMaskFormerHead, **settings))


def test_the_head_gives_its_upsamplers_to_the_decoder():
    cfg = dict(type="DySample", groups=8)
    head = make_head(UpsampleMaskFormerHead, upsample_cfg=cfg)
    assert [stage.groups for stage in head.pixel_decoder.upsample_modules] == [8, 8, 8]
    assert cfg == dict(type="DySample", groups=8)


def test_a_decoder_without_a_host_is_refused():
    @MODELS.register_module(force=True)
    class MyPixelDecoder(PixelDecoder):
        pass

    try:
        with pytest.raises(ValueError, match=r"PixelDecoder or Trans.*got MyPixelDecoder"):
            make_head(UpsampleMaskFormerHead, "MyPixelDecoder")
    finally:
        MODELS.module_dict.pop("MyPixelDecoder")
