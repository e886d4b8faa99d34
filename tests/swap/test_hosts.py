"""The sites that are found are those that a reader of the models' code finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from mmdysample import find_upsampling
from tests.swap.stand_ins import STAND_INS, StandIn, changes

INSTALL = "bash tools/setup_env.sh installs it"


@pytest.mark.parametrize("name", STAND_INS)
def test_sites_of_stand_ins(name):
    check(STAND_INS[name], STAND_INS[name].example())


@pytest.mark.parametrize("name", ["FPN", "PAFPN", "TorchvisionFPN"])
@pytest.mark.parametrize("size", [(9, 9), (17, 32)], ids=str)
def test_sites_in_small_and_odd_maps(name, size):
    """Of 9 pixels, as of 14, the map of stride 8 has 2; what it is brought to has 3 and 4."""
    check(STAND_INS[name], torch.randn(1, 3, *size))


def check(case: StandIn, example: Tensor) -> None:
    sites = find_upsampling(case.build(), example)
    found = [
        (s.name, s.channels, s.scale_factor, s.mode, s.kept, s.guide, s.guide_channels, s.is_output)
        for s in sites
    ]
    expected = [
        (s.name, s.channels, s.scale_factor, s.mode, s.kept, s.guide, s.guide_channels, s.is_output)
        for s in case.sites
    ]
    # What is kept has no need of a guide.
    found = [(*row[:5], None, None, row[7]) if row[4] else row for row in found]
    assert found == expected


# Models of mmdet and mmseg at small widths. Each row of a host is a site:
# name, channels, scale factor, mode, and why it is kept.
Row = tuple[str, int, int | None, str] | tuple[str, int, int | None, str, str]


@dataclass(frozen=True)
class Host:
    """A part of a model: how to build it, what it is given, and its sites.

    Attributes:
        scope: whose registry builds it.
        cfg: its config.
        strides, channels: of the feature maps it is given, the finest first.
        size: of the images.
        call: how it is run with these maps; `module(maps)` by default.
    """

    scope: str
    cfg: dict
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    sites: tuple[Row, ...]
    size: int = 64
    call: Callable[[nn.Module, list[Tensor]], object] = lambda module, maps: module(maps)

    def forward(self, module: nn.Module, images: Tensor) -> object:
        gray = images.mean(1, keepdim=True)
        maps = [
            gray[:, :, ::stride, ::stride].repeat(1, channels, 1, 1)
            for stride, channels in zip(self.strides, self.channels, strict=True)
        ]
        return self.call(module, maps)


def build(scope: str, cfg: dict) -> nn.Module:
    registry = pytest.importorskip(f"{scope}.registry", reason=f"needs {scope}: {INSTALL}")
    pytest.importorskip(f"{scope}.models")
    from mmengine import ConfigDict
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope(scope):
        return registry.MODELS.build(ConfigDict(cfg))


def of_image(module: nn.Module, maps: list[Tensor]) -> object:
    return module(maps[0])


def hrnet_extra(channels: tuple[int, ...]) -> dict:
    """HRNet's stages with one block a branch, and all of their modules."""
    stages = {"stage1": dict(num_modules=1, num_branches=1, block="BOTTLENECK", num_blocks=(1,))}
    stages["stage1"]["num_channels"] = (16,)
    for stage, modules in ((2, 1), (3, 4), (4, 3)):
        stages[f"stage{stage}"] = dict(
            num_modules=modules,
            num_branches=stage,
            block="BASIC",
            num_blocks=(1,) * stage,
            num_channels=channels[:stage],
        )
    return stages


def hrnet_sites(channels: tuple[int, ...], mode: str) -> tuple[Row, ...]:
    """In each module, each branch is upsampled to all finer ones: 1 + 4 * 3 + 3 * 6 sites."""
    return tuple(
        (f"stage{stage}.{module}.fuse_layers.{i}.{j}.2", channels[i], 2 ** (j - i), mode)
        for stage, modules in ((2, 1), (3, 4), (4, 3))
        for module in range(modules)
        for i in range(stage)
        for j in range(i + 1, stage)
    )


HRNET_CHANNELS = (4, 8, 12, 16)
BN = dict(type="BN")
GN = dict(type="GN", num_groups=4)


def seg_head(kind: str, **settings) -> dict:
    defaults = dict(channels=8, num_classes=2, norm_cfg=BN, align_corners=False)
    return dict(type=kind, **(defaults | settings))


MMDET = {
    "YOLOXPAFPN": Host(
        "mmdet",
        dict(type="YOLOXPAFPN", in_channels=[4, 8, 16], out_channels=8, num_csp_blocks=1),
        (8, 16, 32),
        (4, 8, 16),
        # After reduce_layers: the widths of the two finer levels.
        (("upsample.8", 8, 2, "nearest"), ("upsample.4", 4, 2, "nearest")),
    ),
    "CSPNeXtPAFPN": Host(
        "mmdet",
        dict(type="CSPNeXtPAFPN", in_channels=(4, 8, 16), out_channels=8, num_csp_blocks=1),
        (8, 16, 32),
        (4, 8, 16),
        (("upsample.8", 8, 2, "nearest"), ("upsample.4", 4, 2, "nearest")),
    ),
    "FPN": Host(
        "mmdet",
        dict(type="FPN", in_channels=[4, 8, 12, 16], out_channels=8, num_outs=5),
        (4, 8, 16, 32),
        (4, 8, 12, 16),
        tuple((f"upsampling.{k}", 8, 2, "nearest") for k in range(3)),
    ),
    "FPN, scale_factor": Host(
        "mmdet",
        dict(
            type="FPN",
            in_channels=[4, 8, 12, 16],
            out_channels=8,
            start_level=1,
            num_outs=5,
            add_extra_convs="on_output",
            upsample_cfg=dict(scale_factor=2, mode="bilinear"),
        ),
        (4, 8, 16, 32),
        (4, 8, 12, 16),
        tuple((f"upsampling.{k}", 8, 2, "bilinear") for k in range(2)),
    ),
    "FPN_DropBlock": Host(
        "mmdet",
        dict(type="FPN_DropBlock", in_channels=[4, 8, 12, 16], out_channels=8, num_outs=5),
        (4, 8, 16, 32),
        (4, 8, 12, 16),
        tuple((f"upsampling.{k}", 8, 2, "nearest") for k in range(3)),
    ),
    "PAFPN": Host(
        "mmdet",
        dict(type="PAFPN", in_channels=[4, 8, 12, 16], out_channels=8, num_outs=5),
        (4, 8, 16, 32),
        (4, 8, 12, 16),
        tuple((f"upsampling.{k}", 8, 2, "nearest") for k in range(3)),
    ),
    "NASFPN": Host(
        "mmdet",
        dict(type="NASFPN", in_channels=[4, 8, 12], out_channels=8, num_outs=5, stack_times=7),
        (8, 16, 32),
        (4, 8, 12),
        # P6 -> P4, P4 -> P3 and P7 -> P6; the other cells merge maps of one size or pool.
        tuple(
            (f"fpn_stages.{stage}.{cell}.upsampling.0", 8, s, "nearest")
            for stage in range(7)
            for cell, s in (("gp_64_4", 4), ("sum_43_3", 2), ("gp_75_6", 2))
        ),
        size=256,  # P7 has a stride of 128
    ),
    "NASFCOS_FPN": Host(
        "mmdet",
        dict(type="NASFCOS_FPN", in_channels=[4, 8, 12, 16], out_channels=8, num_outs=5),
        (4, 8, 16, 32),
        (4, 8, 12, 16),
        # The cells are named after the two maps they merge: 0 is C3, 1 C4, 2 C5, 6 of C3's size and
        # 3, 4, 5, 7 of C5's. Then the forward brings map 5 to the sizes of 9, 8 and 7, and each sum
        # to that of P3, P4 and P5: of these six calls the first and the third enlarge.
        (
            ("fpn.c02.upsampling.0", 8, 4, "nearest"),
            ("fpn.c36.upsampling.0", 8, 4, "nearest"),
            ("fpn.c61.upsampling.0", 8, 2, "nearest"),
            ("upsampling.0", 8, 4, "bilinear"),
            ("upsampling.2", 8, 4, "bilinear"),
        ),
    ),
    "HRFPN": Host(
        "mmdet",
        dict(type="HRFPN", in_channels=[4, 8, 12, 16], out_channels=8),
        (4, 8, 16, 32),
        (4, 8, 12, 16),
        (
            ("upsampling.0", 8, 2, "bilinear"),
            ("upsampling.1", 12, 4, "bilinear"),
            ("upsampling.2", 16, 8, "bilinear"),
        ),
    ),
    "BFP": Host(
        "mmdet",
        dict(type="BFP", in_channels=8, num_levels=5, refine_level=2),
        (4, 8, 16, 32, 64),
        (8,) * 5,
        # Gathering: levels 2 (not enlarged), 3 and 4. Scattering: levels 0 and 1.
        (
            ("upsampling.1", 8, 2, "nearest"),
            ("upsampling.2", 8, 4, "nearest"),
            ("upsampling.3", 8, 4, "nearest"),
            ("upsampling.4", 8, 2, "nearest"),
        ),
    ),
    "FPG": Host(
        "mmdet",
        dict(
            type="FPG",
            in_channels=[4, 8, 12, 16],
            out_channels=8,
            inter_channels=[4, 6, 8, 10, 12],
            num_outs=5,
            stack_times=3,
            paths=["bu"] * 3,
            add_extra_convs=True,
            across_down_trans=dict(type="interpolation_conv", mode="nearest", kernel_size=3),
            across_skip_trans=None,
            skip_inds=[(0, 1), (0,), (), (), ()],
        ),
        (4, 8, 16, 32),
        (4, 8, 12, 16),
        tuple(
            (f"fpn_transitions.{stage}.{level}.across_down.upsampling.0", channels, 2, "nearest")
            for stage, levels in enumerate(((2, 3), (1, 2, 3), (0, 1, 2, 3)))
            for level, channels in enumerate((6, 8, 10, 12))  # of the next coarser level
            if level in levels
        ),
    ),
    "YOLOV3Neck": Host(
        "mmdet",
        dict(type="YOLOV3Neck", num_scales=3, in_channels=[16, 12, 8], out_channels=[12, 8, 4]),
        (8, 16, 32),
        (8, 12, 16),
        (("upsampling.0", 8, 2, "nearest"), ("upsampling.1", 4, 2, "nearest")),
    ),
    "HRNet": Host(
        "mmdet",
        dict(type="HRNet", extra=hrnet_extra(HRNET_CHANNELS)),
        (1,),
        (3,),
        hrnet_sites(HRNET_CHANNELS, "nearest"),
        call=of_image,
    ),
    "HourglassNet": Host(
        "mmdet",
        dict(
            type="HourglassNet",
            downsample_times=2,
            num_stacks=2,
            stage_channels=(8, 12, 16),
            stage_blocks=(1, 1, 1),
            feat_channel=8,
        ),
        (1,),
        (3,),
        (
            ("hourglass_modules.0.low2.upsampling.0", 12, 2, "nearest"),
            ("hourglass_modules.0.upsampling.0", 8, 2, "nearest"),
            ("hourglass_modules.1.low2.upsampling.0", 12, 2, "nearest"),
            ("hourglass_modules.1.upsampling.0", 8, 2, "nearest"),
        ),
        call=of_image,
    ),
    "SOLOV2Head": Host(
        "mmdet",
        dict(
            type="SOLOV2Head",
            num_classes=2,
            in_channels=8,
            feat_channels=8,
            stacked_convs=1,
            strides=(8, 8, 16, 32, 32),
            # At 128 and 192 pixels the levels have 16, 16, 8, 4, 4 and 24, 24, 12, 6, 6 rows.
            num_grids=[48, 24, 24, 12, 4],
            norm_cfg=GN,
            mask_feature_head=dict(
                in_channels=8, feat_channels=8, start_level=0, end_level=3, out_channels=8
            ),
        ),
        (4, 8, 16, 32, 64),
        (8,) * 5,
        (
            *(
                (f"mask_feature_head.convs_all_levels.{level}.upsample{k}", 8, 2, "bilinear")
                for level in (1, 2, 3)
                for k in range(level)
            ),
            # Call 0 halves the finest level, call 1 doubles the coarsest one; then each level,
            # with two coordinates, is brought to its grid. The last one is never enlarged.
            ("upsampling.1", 8, 2, "bilinear"),
            ("upsampling.2", 10, None, "bilinear", changes(2, 3)),
            ("upsampling.3", 10, None, "bilinear", changes(1, 1.5)),
            ("upsampling.4", 10, None, "bilinear", changes(2, 3)),
            ("upsampling.5", 10, None, "bilinear", changes(2, 3)),
        ),
        size=128,
    ),
    "YOLACTProtonet": Host(
        "mmdet",
        dict(
            type="YOLACTProtonet",
            num_classes=2,
            in_channels=8,
            proto_channels=(8, 8, 8, None, 8, 4),
            with_seg_branch=False,
        ),
        (8,),
        (8,),
        (("protonet.6", 8, 2, "bilinear"),),  # a ReLU follows each of the three convolutions
        call=lambda module, maps: module.protonet(maps[0]),
    ),
    "PixelDecoder": Host(
        "mmdet",
        dict(
            type="PixelDecoder",
            in_channels=[4, 8, 12, 16],
            feat_channels=8,
            out_channels=8,
            norm_cfg=GN,
        ),
        (4, 8, 16, 32),
        (4, 8, 12, 16),
        tuple((f"upsampling.{k}", 8, 2, "nearest") for k in range(3)),
        call=lambda module, maps: module(maps, None),
    ),
    "MSDeformAttnPixelDecoder": Host(
        "mmdet",
        dict(
            type="MSDeformAttnPixelDecoder",
            in_channels=[4, 8, 12, 16],
            feat_channels=8,
            out_channels=8,
            norm_cfg=GN,
            encoder=dict(
                num_layers=1,
                layer_cfg=dict(
                    self_attn_cfg=dict(embed_dims=8, num_heads=2, num_levels=3, num_points=1),
                    ffn_cfg=dict(embed_dims=8, feedforward_channels=8),
                ),
            ),
            positional_encoding=dict(num_feats=4, normalize=True),
        ),
        (4, 8, 16, 32),
        (4, 8, 12, 16),
        (("upsampling.0", 8, 2, "bilinear"),),
    ),
    "PanopticFPNHead": Host(
        "mmdet",
        dict(type="PanopticFPNHead", in_channels=8, inner_channels=8, norm_cfg=GN),
        (4, 8, 16, 32, 64),
        (8,) * 5,
        tuple(
            (f"conv_upsample_layers.{level}.upsampling.{k}", 8, 2, "bilinear")
            for level in (1, 2, 3)
            for k in range(level)
        ),
    ),
    "FCNMaskHead": Host(
        "mmdet",
        dict(
            type="FCNMaskHead",
            num_convs=1,
            in_channels=8,
            conv_out_channels=8,
            num_classes=2,
            upsample_cfg=dict(type="bilinear", scale_factor=2),
        ),
        (4,),
        (8,),
        (("upsample", 8, 2, "bilinear"),),
        call=of_image,
    ),
}

MMDET["YOLOX"] = Host(
    "mmdet",
    dict(
        type="YOLOX",
        data_preprocessor=dict(type="DetDataPreprocessor"),
        backbone=dict(type="CSPDarknet", deepen_factor=0.33, widen_factor=0.125),
        # The backbone has 1024, 512 and 256 channels at a width of one.
        neck=dict(MMDET["YOLOXPAFPN"].cfg, in_channels=[32, 64, 128]),
        bbox_head=dict(type="YOLOXHead", num_classes=2, in_channels=8, feat_channels=8),
    ),
    (1,),
    (3,),
    (("neck.upsample.64", 64, 2, "nearest"), ("neck.upsample.32", 32, 2, "nearest")),
    call=lambda model, maps: model.extract_feat(maps[0]),
)

MMSEG = {
    "HRNet": Host(
        "mmseg",
        dict(type="HRNet", extra=hrnet_extra(HRNET_CHANNELS)),
        (1,),
        (3,),
        # Each is followed by a `resize` to the size that it has.
        hrnet_sites(HRNET_CHANNELS, "bilinear"),
        call=of_image,
    ),
    "UNet": Host(
        "mmseg",
        dict(type="UNet", base_channels=4),
        (1,),
        (3,),
        tuple(
            (f"decoder.{i}.upsample.interp_upsample.0", 4 * 2 ** (i + 1), 2, "bilinear")
            for i in (3, 2, 1, 0)
        ),
        call=of_image,
    ),
    "FPN": Host(
        "mmseg",
        dict(type="FPN", in_channels=[4, 8, 12, 16], out_channels=8, num_outs=4),
        (4, 8, 16, 32),
        (4, 8, 12, 16),
        tuple((f"upsampling.{k}", 8, 2, "nearest") for k in range(3)),
    ),
    "JPU": Host(
        "mmseg",
        dict(type="JPU", in_channels=(4, 8, 12), mid_channels=8),
        (8, 16, 32),
        (4, 8, 12),
        (("upsampling.0", 8, 2, "bilinear"), ("upsampling.1", 8, 4, "bilinear")),
    ),
    "FPNHead": Host(
        "mmseg",
        seg_head(
            "FPNHead", in_channels=[8] * 4, in_index=[0, 1, 2, 3], feature_strides=[4, 8, 16, 32]
        ),
        (4, 8, 16, 32),
        (8,) * 4,
        # Convolutions and upsamplings by turns; then a `resize` to the size that the map has.
        tuple(
            (f"scale_heads.{level}.{2 * k + 1}", 8, 2, "bilinear")
            for level in (1, 2, 3)
            for k in range(level)
        ),
    ),
    "FCNHead": Host("mmseg", seg_head("FCNHead", in_channels=8, in_index=0), (8,), (8,), ()),
    "FCNHead, resize_concat": Host(
        "mmseg",
        seg_head(
            "FCNHead",
            in_channels=[4, 8, 12, 16],
            in_index=[0, 1, 2, 3],
            channels=40,
            input_transform="resize_concat",
            num_convs=1,
            kernel_size=1,
            concat_input=False,
        ),
        (4, 8, 16, 32),
        (4, 8, 12, 16),
        (
            ("upsampling.1", 8, 2, "bilinear"),
            ("upsampling.2", 12, 4, "bilinear"),
            ("upsampling.3", 16, 8, "bilinear"),
        ),
    ),
    "SegformerHead": Host(
        "mmseg",
        seg_head("SegformerHead", in_channels=[4, 8, 12, 16], in_index=[0, 1, 2, 3]),
        (4, 8, 16, 32),
        (4, 8, 12, 16),
        tuple((f"upsampling.{k}", 8, 2**k, "bilinear") for k in (1, 2, 3)),
    ),
    "UPerHead": Host(
        "mmseg",
        seg_head("UPerHead", in_channels=[4, 8, 12, 16], in_index=[0, 1, 2, 3]),
        (4, 8, 16, 32),
        (4, 8, 12, 16),
        (
            # Pooled to 1, 2, 3 and 6 from maps of 12 and of 18 rows.
            ("psp_modules.upsampling.0", 8, None, "bilinear", changes(12, 18)),
            ("psp_modules.upsampling.1", 8, None, "bilinear", changes(6, 9)),
            ("psp_modules.upsampling.2", 8, None, "bilinear", changes(4, 6)),
            ("psp_modules.upsampling.3", 8, None, "bilinear", changes(2, 3)),
            # From level to level, then levels 3, 2 and 1 to the finest.
            *((f"upsampling.{k}", 8, 2, "bilinear") for k in range(3)),
            ("upsampling.3", 8, 8, "bilinear"),
            ("upsampling.4", 8, 4, "bilinear"),
            ("upsampling.5", 8, 2, "bilinear"),
        ),
        size=384,
    ),
    "PSPHead": Host(
        "mmseg",
        seg_head("PSPHead", in_channels=8, in_index=0),
        (32,),
        (8,),
        (
            ("psp_modules.upsampling.0", 8, None, "bilinear", changes(12, 18)),
            ("psp_modules.upsampling.1", 8, None, "bilinear", changes(6, 9)),
            ("psp_modules.upsampling.2", 8, None, "bilinear", changes(4, 6)),
            ("psp_modules.upsampling.3", 8, None, "bilinear", changes(2, 3)),
        ),
        size=384,
    ),
    "PSPHead, on maps of 2x2 and 4x4": Host(
        "mmseg",
        seg_head("PSPHead", in_channels=8, in_index=0, pool_scales=(1, 2)),
        (32,),
        (8,),
        (
            ("psp_modules.upsampling.0", 8, None, "bilinear", changes(2, 4)),
            ("psp_modules.upsampling.1", 8, None, "bilinear", changes(1, 2)),
        ),
    ),
    "ASPPHead": Host(
        "mmseg",
        seg_head("ASPPHead", in_channels=8, in_index=0),
        (16,),
        (8,),
        (("upsampling.0", 8, None, "bilinear", changes(8, 12)),),
        size=128,
    ),
    "DepthwiseSeparableASPPHead": Host(
        "mmseg",
        seg_head(
            "DepthwiseSeparableASPPHead",
            in_channels=16,
            in_index=1,
            c1_in_channels=8,
            c1_channels=4,
        ),
        (8, 16),
        (8, 16),
        (
            ("upsampling.0", 8, None, "bilinear", changes(8, 12)),
            ("upsampling.1", 8, 2, "bilinear"),
        ),
        size=128,
    ),
}
MMSEG["EncoderDecoder"] = Host(
    "mmseg",
    dict(
        type="EncoderDecoder",
        backbone=MMSEG["UNet"].cfg,
        # The decoder's maps have 64, 32, 16, 8 and 4 channels, the coarsest first.
        decode_head=seg_head("SegformerHead", in_channels=[4, 8], in_index=[4, 3]),
    ),
    (1,),
    (3,),
    (
        *((f"backbone.{row[0]}", *row[1:]) for row in MMSEG["UNet"].sites),
        ("decode_head.upsampling.1", 8, 2, "bilinear"),
    ),
    # The head is called by its `forward`. Logits are resized to the image in other modes.
    call=lambda model, maps: model(maps[0], mode="tensor"),
)
HOSTS = {f"{host.scope} {name}": host for name, host in (*MMDET.items(), *MMSEG.items())}


@pytest.mark.parametrize("name", HOSTS)
def test_sites_of_hosts(name):
    host = HOSTS[name]
    module = build(host.scope, host.cfg)
    sites = find_upsampling(module, torch.randn(1, 3, host.size, host.size), forward=host.forward)
    found = {(s.name, s.channels, s.scale_factor, s.mode, s.kept) for s in sites}
    expected = {row if len(row) == 5 else (*row, None) for row in host.sites}
    assert found == expected
    assert len(sites) == len(expected)
