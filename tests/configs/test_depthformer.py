"""DepthFormer's configs: increments as printed, and the training of the published baseline."""

from __future__ import annotations

import copy
import math

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, DefaultScope
from torch import nn

from tests.configs.built import build, build_backbone, count_weights, load
from tools.model_zoo.configs import model_configs

DEPTHFORMER = "depthformer_swin-t_{}_2xb8-38k_nyu-416x544"
# DySample paper, Table 9, but A2U. Weights alone, or with biases and normalization ("all").
PRINTED = {
    "deconv": ("+7.1M", "weights", 7_050_240),
    "pixelshuffle": ("+28.2M", "weights", 28_200_960),
    "carafe": ("+0.3M", "all", 323_216),
    "indexnet": ("+6.3M", "all", 6_333_056),
    "fade-ungated": ("+0.2M", "all", 197_220),
    "sapa-b": ("+0.1M", "all", 74_240),
    "dysample-s": ("+5.8K", "weights", 5_760),
    "dysample-s-plus": ("+11.5K", "weights", 11_520),
    "dysample": ("+46.1K", "weights", 46_080),
    "dysample-plus": ("+92.2K", "weights", 92_160),
}
SLUGS = ("bilinear", "a2u", *PRINTED)


def count_all(name: str) -> int:
    """Parameters of a model with its own backbone."""
    model = build(name)
    parts = (build_backbone(load(name)), model.neck, model.decode_head)
    return sum(p.numel() for part in parts for p in part.parameters())


def test_there_is_a_config_for_each_row_and_no_other():
    names = {name for name, path in model_configs().items() if path.parent.name == "depthformer"}
    assert names == {DEPTHFORMER.format(slug) for slug in SLUGS} and len(names) == 12


def test_the_baseline():
    """47.6M, and interpolation with aligned corners, with which its row was measured."""
    name = DEPTHFORMER.format("bilinear")
    assert count_all(name) == 47_612_029
    stages = build(name).decode_head.upsample_modules
    assert [(type(up).__name__, up.align_corners) for up in stages] == [("Bilinear", True)] * 4


@pytest.mark.parametrize("slug", PRINTED)
def test_increments_are_the_printed_ones(slug):
    name = DEPTHFORMER.format(slug)
    stages = build(name).decode_head.upsample_modules
    assert [up.in_channels for up in stages] == [768, 384, 192, 96]
    assert [up.guide_channels for up in stages] == [384, 192, 96, 64]
    printed, counted, expected = PRINTED[slug]
    count = count_weights(build(name)) if counted == "weights" else count_all(name) - 47_612_029
    assert count == expected
    assert f"+{count / 1e6:.1f}M" == printed or f"+{count / 1e3:.1f}K" == printed


def test_a2us_increment_is_another_one_than_printed():
    """+30.0K is neither the weights, 28.0K, nor all parameters, 31.1K."""
    name = DEPTHFORMER.format("a2u")
    assert count_weights(build(name)) == 27_968
    assert count_all(name) - 47_612_029 == 31_064


@pytest.mark.parametrize("slug", SLUGS)
def test_the_settings_of_all_are_one(slug):
    ours, first = (
        copy.deepcopy(load(DEPTHFORMER.format(name))._cfg_dict) for name in (slug, "bilinear")
    )
    for cfg in (ours, first):
        cfg.pop("upsample_cfg", None)
        cfg["model"]["decode_head"].pop("upsample_cfg")
    assert ours == first


def test_model():
    cfg = load(DEPTHFORMER.format("dysample"))
    model = build(DEPTHFORMER.format("dysample"))
    backbone = build_backbone(cfg)
    assert backbone.stages[3].blocks[1].attn.drop.drop_prob == pytest.approx(0.3)
    assert [len(stage.blocks) for stage in backbone.stages] == [2, 2, 6, 2]
    assert [stage.blocks[0].attn.w_msa.num_heads for stage in backbone.stages] == [3, 6, 12, 24]
    assert backbone.stages[0].blocks[0].attn.window_size == 7
    for attention in (model.neck.self_attn, model.neck.multi_att):
        settings = (attention.num_heads, attention.num_levels, attention.num_points)
        assert settings == (8, 4, 8) and attention.dropout.p == 0.1 and attention.batch_first
    head = model.decode_head
    assert (head.min_depth, head.max_depth, head.scale_up, head.align_corners) == (
        *(1e-3, 10, False),
        True,
    )
    loss = head.loss_decode
    assert (loss.scale, loss.variance_focus, loss.min_depth) == (1, 0.85, 0)
    assert (loss.eps, loss.unbiased, loss.loss_weight) == (1e-3, True, 1)
    assert cfg.model.test_cfg == dict(mode="slide_flip", crop_size=(480, 640), stride=(480, 640))
    preprocessor = cfg.model.data_preprocessor
    assert (preprocessor.size, preprocessor.seg_pad_val) == ((416, 544), 0)
    original = Config.fromfile(model_configs()[DEPTHFORMER.format("dysample")])
    checkpoint = original.model.backbone.init_cfg.checkpoint
    assert checkpoint.endswith("/swin/swin_tiny_patch4_window7_224_20220317-1cdeb081.pth")


def test_data():
    cfg = load(DEPTHFORMER.format("dysample"))
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps["RandomRotate"].prob == 0.5 and steps["RandomRotate"].degree == 2.5
    assert steps["RandomCrop"].crop_size == (416, 544)
    # 16 images an iteration, 25 epochs of 24,231 images
    assert cfg.train_dataloader.batch_size * 2 == cfg.auto_scale_lr.base_batch_size == 16
    assert round(cfg.train_cfg.max_iters * 16 / 24_231) == 25
    assert cfg.train_cfg.max_iters / cfg.train_cfg.val_interval == 24
    assert "save_best" not in cfg.default_hooks.checkpoint
    assert cfg.visualizer.type == "DepthLocalVisualizer"


def test_learning_rate_of_every_iteration():
    """A cosine down to 1e-8 of its start, times a linear warm-up in its first third.

    The published log says 3e-5 at iteration 6,400.
    """
    cfg = load(DEPTHFORMER.format("dysample"))
    weights = [nn.Parameter(torch.zeros(1))]
    optimizer = torch.optim.SGD(weights, lr=cfg.optim_wrapper.optimizer.lr)
    schedulers = []
    for settings in copy.deepcopy(cfg.param_scheduler):
        assert settings.pop("by_epoch") is False
        cls = PARAM_SCHEDULERS.get(settings.pop("type"))
        schedulers.append(cls(optimizer, by_epoch=False, **settings))
    rates = []
    for _ in range(38_400):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    for step in (0, 1, 100, 6_400, 12_799, 12_800, 20_000, 38_399):
        cosine = 1e-8 + (1 - 1e-8) * (1 + math.cos(math.pi * step / 38_400)) / 2
        warm_up = min(1, 1e-3 + (1 - 1e-3) * step / 12_799)
        assert rates[step] == pytest.approx(6e-5 * cosine * warm_up, rel=2e-4), step
    assert f"{rates[6_400]:.0e}" == "3e-05" and f"{rates[6_400]:.2e}" == "2.80e-05"


def test_what_does_not_decay():
    """Position biases and layer normalization; batch normalization does: it is called bn."""
    name = "depthformer_swin-small_dysample_shapes"
    settings = copy.deepcopy(load(DEPTHFORMER.format("dysample")).optim_wrapper)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(copy.deepcopy(load(name).model))
        optimizer = build_optim_wrapper(model, settings).optimizer
    assert type(optimizer).__name__ == "AdamW" and settings.clip_grad.max_norm == 35
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    for name, parameter in model.named_parameters():
        spared = "norm" in name or "relative_position_bias_table" in name
        assert decays[id(parameter)] == (0 if spared else 0.01), name
    assert decays[id(model.neck.conv_proj.bn.weight)] == decays[id(model.backbone.bn1.bias)] == 0.01
    assert {(g["lr"], g["betas"]) for g in optimizer.param_groups} == {(6e-5, (0.9, 0.999))}


def test_shapes():
    names = {name for name in model_configs() if name.startswith("depthformer_swin-small")}
    slugs = ("bilinear", "dysample", "dysample-plus", "sapa-b", "fade-ungated")
    assert names == {f"depthformer_swin-small_{slug}_shapes" for slug in slugs}
    maps = build_backbone(load("depthformer_swin-small_dysample_shapes"))(torch.zeros(1, 3, 64, 64))
    for slug in slugs:
        head = build(f"depthformer_swin-small_{slug}_shapes").decode_head
        assert head.in_channels == [x.shape[1] for x in maps]
        kind = {up.extra_repr() for up in head.upsample_modules}
        assert all("align_corners=True" in text for text in kind) == (slug == "bilinear")
