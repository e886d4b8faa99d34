"""Matting configs: parameters as printed, schedule, and what the upsamplers learn with."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from mmdysample import Upsampler
from mmdysample.mmseg.matting import JitterForeground, RandomForegroundAffine
from tests.configs.built import load
from tools.model_zoo.configs import model_configs

NAME = "a2u-matting_r34_{}_1xb16-180k_comp1k-512x512"
SHAPES = "a2u-matting_r18_{}_shapes"
PLAIN = 8_049_003


@functools.cache
def build(name: str) -> nn.Module:
    with torch.device("meta"), DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(copy.deepcopy(load(name).model))


def count(module: nn.Module, weights_only: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.dim() > 1 or not weights_only)


# C = 256, 128, 64, 64, whose sum is 512 and the sum of whose squares is 90,112.
INCREMENTS = {
    "nearest": 0,
    "bilinear": 0,
    # each stage: 1x1 of C to d = 64, 3x3 of d to 4*25 with biases
    "carafe": 512 * 64 + 4 * (64 + 9 * 64 * 100 + 100),
    # holistic index network: 4x4 of C to 2C and 1x1 of 2C to 4C, with a batch norm of 2C between
    "indexnet": 32 * 90_112 + 4 * 512 + 8 * 512,
    "a2u": 21_656,
    "sapa-i": 4 * 512,  # two layer norms
    # two projections to d = 32 and two layer norms
    "sapa-b": 2 * 32 * 512 + 2 * 4 * 32 + 4 * 512,
    # a third projection, and a gate of one value of C
    "sapa-g": 3 * 32 * 512 + 3 * 4 * 32 + 4 * 512 + 512 + 4,
    "fade": 124_008,
    "fade-lite": 27_216,
    # g = 4: 2*g*4 offsets of each pixel, with biases
    "dysample": 32 * 512 + 4 * 32,
    "dysample-plus": 2 * 32 * 512 + 4 * 32,
}


@pytest.mark.parametrize("slug", INCREMENTS)
def test_parameters(slug):
    """To the last one: the network's own, and what each upsampler adds."""
    model = build(NAME.format(slug))
    host = model.decode_head
    assert (type(host).__name__, len(host.upsample_modules)) == ("MattingHead", 4)
    kinds = {type(stage).__name__.lower() for stage in host.upsample_modules}
    assert kinds == {slug.split("-")[0]}
    assert count(model) == PLAIN + INCREMENTS[slug]


@pytest.mark.parametrize(
    ("slug", "printed", "unit"),
    [
        # SAPA, Table 5, and what FADE's authors add to it; in millions
        ("carafe", 0.26, 1e6),
        ("a2u", 0.02, 1e6),
        ("sapa-i", 0.00, 1e6),
        ("sapa-b", 0.04, 1e6),
        ("fade", 0.12, 1e6),
        ("fade-lite", 27, 1e3),
    ],
)
def test_upsamplers_add_what_is_printed(slug, printed, unit):
    model = build(NAME.format(slug))
    stages = [module for module in model.modules() if isinstance(module, Upsampler)]
    added = sum(map(count, stages))
    decimals = 0 if unit == 1e3 else 2
    assert round(added / unit, decimals) == printed


def test_what_is_printed_and_does_not_fit():
    """IndexNet's +12.26M and SAPA-G's +0.04M: what is counted here is in docs/model_zoo.md."""
    for slug, counted in (("indexnet", 2.89), ("sapa-g", 0.05)):
        assert round((count(build(NAME.format(slug))) - PLAIN) / 1e6, 2) == counted


def test_dysample_weights():
    """2*g*s*s*C = 32*C, and twice that with the dynamic scope."""
    for slug, weights in (("dysample", 16_384), ("dysample-plus", 32_768)):
        stages = build(NAME.format(slug)).decode_head.upsample_modules
        assert count(stages, weights_only=True) == weights


def test_how_samples_are_made():
    """Steps, in order, with their arguments: Li and Lu's augmentation as A2U matting has it."""
    cfg = load(NAME.format("dysample"))
    assert [dict(step) for step in cfg.train_dataloader.dataset.pipeline] == [
        dict(type="LoadForeground"),
        dict(type="MergeForegrounds", prob=0.5),
        dict(type="ResizeForeground", size=640, prob=0.25),
        dict(type="RandomForegroundAffine"),
        dict(type="GenerateTrimap", kernel_size=(1, 29)),
        dict(type="LoadBackground"),
        dict(type="CropAroundUnknown", crop_size=512),
        dict(type="JitterForeground"),
        dict(type="CompositeForeground"),
        dict(type="PackMattingInputs"),
    ]
    # what the config leaves to the defaults
    affine, jitter = RandomForegroundAffine(), JitterForeground()
    assert (affine.max_rotation, affine.min_rotated_side) == (30, 1024)
    assert (tuple(affine.scale_range), affine.max_shear, affine.flip_prob) == ((0.8, 1.25), 10, 0.5)
    assert (jitter.hue, jitter.part) == (40, 0.1)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert [dict(step) for step in loader.dataset.pipeline] == [
            dict(type="LoadImageFromFile"),
            dict(type="LoadTrimap"),
            dict(type="LoadAlphaAnnotations"),
            dict(type="PackMattingInputs"),
        ]


def test_what_the_network_is_given():
    """ImageNet's mean and standard deviation of RGB, of values 0 to 1; sides multiples of 16."""
    preprocessor = load(NAME.format("dysample")).model.data_preprocessor
    mean, std = ([value / 255 for value in preprocessor[key]] for key in ("mean", "std"))
    assert mean == pytest.approx([0.485, 0.456, 0.406])
    assert std == pytest.approx([0.229, 0.224, 0.225])
    assert (preprocessor.bgr_to_rgb, preprocessor.size_divisor) == (True, 16)


def test_the_schedule():
    cfg = load(NAME.format("dysample"))
    assert cfg.train_cfg.max_iters == 30 * 6000 and cfg.train_cfg.val_interval == 6000
    (steps,) = cfg.param_scheduler
    assert (steps.by_epoch, steps.gamma) == (False, 0.1)
    assert steps.milestones == [20 * 6000, 26 * 6000]
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.default_hooks.checkpoint.save_best == "SAD"
    assert cfg.default_hooks.checkpoint.rule == "less"
    assert cfg.default_scope == "mmseg"


def test_learning_rates():
    """Adam, 1e-4 for the pretrained encoder and the upsamplers, 1e-2 for all other layers."""
    cfg = load(NAME.format("dysample-plus"))
    model = build(NAME.format("dysample-plus"))
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer) is torch.optim.Adam
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        slow = name.startswith("backbone.") or "upsample_modules." in name
        assert rates.pop(id(parameter)) == pytest.approx(1e-4 if slow else 1e-2), name
    assert not rates


def test_the_baseline_is_bilinear_without_aligned_corners():
    for stage in build(NAME.format("bilinear")).decode_head.upsample_modules:
        assert not stage.align_corners


def test_the_encoder_starts_from_imagenet():
    backbone = Config.fromfile(model_configs()[NAME.format("nearest")]).model.backbone
    assert (backbone.type, backbone.depth) == ("MattingResNet", 34)
    assert backbone.init_cfg == dict(type="Pretrained", checkpoint="torchvision://resnet34")


@pytest.mark.parametrize("slug", ["bilinear", "dysample", "dysample-plus", "sapa-b", "fade"])
def test_the_small_ones_are_the_same_network(slug):
    small, large = (build(name.format(slug)) for name in (SHAPES, NAME))
    assert [type(m) for m in small.decode_head.upsample_modules] == [
        type(m) for m in large.decode_head.upsample_modules
    ]
    assert count(small) < PLAIN / 10
