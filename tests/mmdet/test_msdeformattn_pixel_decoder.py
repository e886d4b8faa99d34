"""The host for Mask2Former against mmdet's pixel decoder, and its heads."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

from mmdet.models.layers import MSDeformAttnPixelDecoder
from mmengine.config import ConfigDict

from mmdysample.mmdet import UpsampleMSDeformAttnPixelDecoder
from tests.host_contract import SIZES, HostContract, assert_bit_equal, make_maps
from tests.utils import assert_close, randomize

CHANNELS = 32
OUT_CHANNELS = 40


def in_channels(levels=4, encoded=3) -> list[int]:
    """Upstream gives a lateral the channels of another level where there are several."""
    return [16] * (levels - encoded) + [24, 32, 48][:encoded]


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


def call(decoder: nn.Module, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    mask_feature, outs = decoder(inputs)
    return [mask_feature, *outs]


class TestMask2Former(HostContract):
    interpolation = "Bilinear"
    in_channels = in_channels()
    stages = 1

    def make(self, upsample_cfg=None):
        return make(upsample_cfg=upsample_cfg)

    def make_upstream(self):
        return make(MSDeformAttnPixelDecoder)

    def call(self, module, inputs):
        return call(module, inputs)

    @pytest.mark.slow
    def test_compiles_in_one_graph(self):
        """mmdet's encoder reads sizes from tensors, which breaks the graph: what comes after it."""
        decoder = self.make(dict(type="DySample"))
        inputs = make_maps(self.in_channels)
        _, outs = decoder(inputs)
        torch.compiler.reset()
        path = torch.compile(decoder.climb, fullgraph=True, backend="aot_eager")
        assert_close(path(outs[-1], inputs)[-1], decoder.climb(outs[-1], inputs)[-1])


class TestTwoStages(TestMask2Former):
    test_compiles_in_one_graph = None  # nothing more than of the class above
    in_channels = in_channels(4, 2)
    stages = 2

    def make(self, upsample_cfg=None):
        return make(encoded=2, upsample_cfg=upsample_cfg)

    def make_upstream(self):
        return make(MSDeformAttnPixelDecoder, encoded=2)


def test_without_a_stage_it_is_mmdets():
    ours, upstream = make(levels=3), make(MSDeformAttnPixelDecoder, levels=3)
    assert len(ours.upsample_modules) == 0
    assert_bit_equal(ours, upstream, make_maps(in_channels(3, 3)), call)


@pytest.mark.parametrize("num_outs", [1, 2, 4])
def test_other_numbers_of_outputs_are_mmdets(num_outs):
    ours, upstream = make(num_outs=num_outs), make(MSDeformAttnPixelDecoder, num_outs=num_outs)
    inputs = make_maps(in_channels())
    assert_bit_equal(ours, upstream, inputs, call)
    _, outs = ours(inputs)
    assert [tuple(out.shape[2:]) for out in outs] == SIZES["odd"][::-1][:num_outs]


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
    inputs = make_maps(in_channels())
    samples = [DataSample(metainfo=dict(img_shape=(164, 244)))] * 2
    for mine, theirs in zip(ours(inputs, samples), upstream(inputs, samples), strict=True):
        assert len(mine) == len(theirs) and all(map(torch.equal, mine, theirs))
