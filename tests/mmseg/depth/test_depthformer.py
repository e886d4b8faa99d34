"""DepthFormer as a whole: its stem, its number of parameters, the names of its checkpoints."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from mmengine.structures import PixelData
from mmseg.models.backbones import SwinTransformer
from mmseg.structures import SegDataSample

from mmdysample.mmseg.depth import DenseDepthHead, DepthFormerSwin, HAHINeck
from tests.utils import assert_close, randomize

SMALL_SWIN = dict(embed_dims=8, depths=(2, 2), num_heads=(2, 4), strides=(4, 2), out_indices=(0, 1))
CHANNELS = [4, 8, 16]


def make_backbone(**kwargs) -> DepthFormerSwin:
    backbone = randomize(DepthFormerSwin(**SMALL_SWIN | dict(stem_channels=4) | kwargs))
    backbone.bn1.running_mean.normal_()
    backbone.bn1.running_var.uniform_(0.5, 2)
    backbone.eval()  # which returns None in mmseg's SwinTransformer
    return backbone


def make_estimator(**test_cfg) -> nn.Module:
    settings = ConfigDict(
        type="DepthEstimator",
        data_preprocessor=dict(type="SegDataPreProcessor", mean=[100.0] * 3, std=[60.0] * 3),
        backbone=dict(type="DepthFormerSwin", stem_channels=4, **SMALL_SWIN),
        neck=dict(type="HAHINeck", in_channels=CHANNELS, embed_dims=8, num_heads=2, num_points=2),
        decode_head=dict(
            type="DenseDepthHead",
            in_channels=CHANNELS,
            upsample_cfg=dict(type="DySample"),
            scale_up=True,
        ),
        test_cfg=dict(mode="whole") | test_cfg,
    )
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(settings)
    randomize(model, 0.3).eval()
    return model


# Names in the checkpoints of the toolbox that DepthFormer was published with.
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
SWIN_BLOCK = """
norm1.weight norm1.bias
attn.w_msa.relative_position_bias_table attn.w_msa.relative_position_index
attn.w_msa.qkv.weight attn.w_msa.qkv.bias attn.w_msa.proj.weight attn.w_msa.proj.bias
norm2.weight norm2.bias
ffn.layers.0.0.weight ffn.layers.0.0.bias ffn.layers.1.weight ffn.layers.1.bias
"""
DOWNSAMPLE = "downsample.norm.weight downsample.norm.bias downsample.reduction.weight"
ATTENTION = """
sampling_offsets.weight sampling_offsets.bias attention_weights.weight attention_weights.bias
value_proj.weight value_proj.bias output_proj.weight output_proj.bias
"""
NECK_CONVOLUTIONS = """
lateral_convs.0 lateral_convs.1 lateral_convs.2 lateral_convs.3 lateral_convs.4
trans_proj.0 trans_proj.1 trans_proj.2 trans_proj.3
trans_fusion.0 trans_fusion.1 trans_fusion.2 trans_fusion.3
conv_proj.0 conv_fusion.0
"""
HEAD = """
conv_list.0.conv.weight conv_list.0.conv.bias
conv_list.1.convA.conv.weight conv_list.1.convA.conv.bias
conv_list.1.convB.conv.weight conv_list.1.convB.conv.bias
conv_list.2.convA.conv.weight conv_list.2.convA.conv.bias
conv_list.2.convB.conv.weight conv_list.2.convB.conv.bias
conv_list.3.convA.conv.weight conv_list.3.convA.conv.bias
conv_list.3.convB.conv.weight conv_list.3.convB.conv.bias
conv_list.4.convA.conv.weight conv_list.4.convA.conv.bias
conv_list.4.convB.conv.weight conv_list.4.convB.conv.bias
conv_depth.weight conv_depth.bias
"""


def published_names() -> set[str]:
    names = {"backbone.conv1.weight"} | {f"backbone.bn1.{name}" for name in BATCH_NORM}
    for name in ("patch_embed.projection", "patch_embed.norm", "norm0", "norm1", "norm2", "norm3"):
        names |= {f"backbone.{name}.weight", f"backbone.{name}.bias"}
    for stage, depth in enumerate((2, 2, 6, 2)):
        for block in range(depth):
            start = f"backbone.stages.{stage}.blocks.{block}."
            names |= {start + name for name in SWIN_BLOCK.split()}
        if stage < 3:
            names |= {f"backbone.stages.{stage}.{name}" for name in DOWNSAMPLE.split()}
    for name in NECK_CONVOLUTIONS.split():
        names |= {f"neck.{name}.conv.weight"} | {f"neck.{name}.bn.{end}" for end in BATCH_NORM}
    for name in ("self_attn", "multi_att"):
        names |= {f"neck.{name}.{end}" for end in ATTENTION.split()}
    names |= {"neck.level_embed", "neck.reference_points.weight", "neck.reference_points.bias"}
    return names | {f"decode_head.{name}" for name in HEAD.split()}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_parameters_of_swin_t():
    """Their number, part by part, as published in total: 47.6M; and their names."""
    channels = [64, 96, 192, 384, 768]
    backbone = DepthFormerSwin(drop_path_rate=0.3)
    stem = count(backbone.conv1) + count(backbone.bn1)
    with torch.device("meta"):
        neck, head = HAHINeck(channels), DenseDepthHead(channels)
    assert stem == 9_536
    assert count(backbone) - stem == 27_520_698
    assert count(neck) == 12_392_834
    assert count(neck.self_attn) == count(neck.multi_att) == 328_960
    assert count(head) == 7_688_961
    assert count(backbone) + count(neck) + count(head) == 47_612_029

    fusions = [head.conv_list[n].convA.conv.weight.shape[:2] for n in range(1, 5)]
    assert fusions == [(384, 1152), (192, 576), (96, 288), (64, 160)]
    assert neck.conv_fusion.conv.weight.shape[:2] == (64, 256 + 64)


def test_a_checkpoint_with_the_published_names_loads(tmp_path):
    """Strictly; each parameter gets the number of its name."""
    channels = [64, 96, 192, 384, 768]
    with torch.device("meta"):
        neck, head = HAHINeck(channels), DenseDepthHead(channels)
    model = nn.ModuleDict(dict(backbone=DepthFormerSwin(), neck=neck, decode_head=head)).to_empty(
        device="cpu"
    )
    own = {
        name.replace(".conv_proj.", ".conv_proj.0.").replace(".conv_fusion.", ".conv_fusion.0."): x
        for name, x in model.state_dict().items()
    }
    names = sorted(published_names())
    assert sorted(own) == names
    numbered = {
        name: torch.tensor(number, dtype=own[name].dtype).expand(own[name].shape)
        for number, name in enumerate(names)
    }
    torch.save(dict(state_dict=numbered), tmp_path / "published.pth")
    load_checkpoint(model, str(tmp_path / "published.pth"), map_location="cpu", strict=True)
    for name, value in own.items():
        assert (value == names.index(name)).all(), name


@pytest.mark.parametrize("size", [(32, 40), (37, 27)])
@torch.no_grad()
def test_the_stem_comes_first_and_the_rest_is_mmsegs(size):
    backbone = make_backbone()
    swin = SwinTransformer(**SMALL_SWIN)
    swin.load_state_dict(backbone.state_dict(), strict=False)
    swin.eval()
    image = torch.randn(2, 3, *size)
    stem, *maps = backbone(image)
    bn = backbone.bn1
    expected = F.conv2d(image, backbone.conv1.weight, stride=2, padding=3)
    expected = F.batch_norm(expected, bn.running_mean, bn.running_var, bn.weight, bn.bias).relu()
    assert_close(stem, expected)
    for out, reference in zip(maps, swin(image), strict=True):
        assert torch.equal(out, reference)
    for n, out in enumerate([stem, *maps]):
        assert out.shape[2:] == tuple(-(-extent // 2 ** (n + 1)) for extent in size)


def test_pretrained_weights_of_swin_load_and_the_stem_keeps_its_own(tmp_path):
    swin = randomize(SwinTransformer(**SMALL_SWIN), 3.0)
    torch.save(dict(state_dict=swin.state_dict()), tmp_path / "swin.pth")
    init_cfg = dict(type="Pretrained", checkpoint=str(tmp_path / "swin.pth"))
    backbone = DepthFormerSwin(**SMALL_SWIN, init_cfg=init_cfg)
    stem = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.init_weights()
    loaded = backbone.state_dict()
    own = {"conv1.weight"} | {name for name in loaded if name.startswith("bn1.")}
    assert loaded.keys() == swin.state_dict().keys() | own
    for name, value in loaded.items():
        assert torch.equal(value, stem[name] if name in own else swin.state_dict()[name]), name


def test_the_stem_of_a_backbone_is_checked():
    with pytest.raises(ValueError, match="stem_channels must be an integer >= 1, got 0"):
        DepthFormerSwin(**SMALL_SWIN, stem_channels=0)


@pytest.mark.parametrize(
    "size",
    [(48, 64), (41, 37), (96, 64), (50, 130)],
    ids=["smaller", "odd", "as-high", "as-wide"],
)
@torch.no_grad()
def test_flip_test_of_images_no_larger_than_the_window(size):
    """mmseg's slide_flip, with one window for the whole image: the mean of two manual forwards."""
    model = make_estimator(mode="slide_flip", crop_size=(96, 130), stride=(96, 130))
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    meta = dict(ori_shape=size, img_shape=size)
    data = dict(inputs=[image], data_samples=[SegDataSample(metainfo=meta)])
    (result,) = model.test_step(data)
    x = (image[None].float() - 100) / 60
    plain, mirrored = (
        F.interpolate(model(inputs).clamp(1e-3, 10), size=size, mode="bilinear", align_corners=True)
        for inputs in (x, x.flip(3))
    )
    out = result.pred_depth_map.data
    assert out.shape == (1, *size)
    assert_close(out, ((plain + mirrored.flip(3)) / 2)[0])
    assert (plain - mirrored.flip(3)).abs().max() > 0.1, "flipping makes a difference"


@torch.no_grad()
def test_flip_test_of_larger_images_is_the_mean_over_windows():
    model = make_estimator(mode="slide_flip", crop_size=(48, 64), stride=(48, 64))
    image = torch.randn(1, 3, 48, 96)
    sample = SegDataSample(metainfo=dict(ori_shape=(48, 96), img_shape=(48, 96)))
    (result,) = model.predict(image, [sample])

    def flip_test(window):
        def whole(inputs):
            return F.interpolate(model(inputs), size=(48, 64), mode="bilinear", align_corners=True)

        return (whole(window) + whole(window.flip(3)).flip(3))[0] / 2

    left, right = flip_test(image[..., :64]), flip_test(image[..., 32:])
    out = result.pred_depth_map.data
    assert_close(out[..., :32], left[..., :32])
    assert_close(out[..., 64:], right[..., 32:])
    assert_close(out[..., 32:64], (left[..., 32:] + right[..., :32]) / 2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_is_trained(precision):
    """A gradient for every parameter; also of autocast in half precision, whose loss is float32."""
    model = make_estimator()
    model.train()
    model.init_weights()
    samples = [
        SegDataSample(
            gt_depth_map=PixelData(data=torch.rand(1, 45, 63) + 1),
            metainfo=dict(img_shape=(45, 63), ori_shape=(45, 63)),
        )
        for _ in range(2)
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        losses = model.loss(torch.randn(2, 3, 45, 63), samples)
    assert list(losses) == ["decode.loss_depth"]
    loss = losses["decode.loss_depth"]
    assert loss.dtype == torch.float32 and 0 < loss < 10
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
