"""BTS's configs: parameters to the last one, increments as printed, and the authors' training."""

from __future__ import annotations

import copy

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

BTS = "bts_r50_{}_1xb4-50e_nyu-416x544"
SLUGS = ("nearest", "carafe", "indexnet", "a2u", "sapa-b", "sapa-g", "dysample", "dysample-plus")
# SAPA, Table 4. IndexNet's is printed as +44.20: it would be with biases in the 4x4 convolutions.
PRINTED = {"carafe": "+0.41", "indexnet": "+44.19", "a2u": "+0.08", "sapa-b": "+0.16"}
PRINTED |= {"sapa-g": "+0.25"}


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def count_all(slug: str) -> int:
    return count(build_backbone(load(BTS.format(slug))), build(BTS.format(slug)).decode_head)


def test_there_is_a_config_for_each_row_and_no_other():
    names = {name for name, path in model_configs().items() if path.parent.name == "bts"}
    assert names == {BTS.format(slug) for slug in SLUGS}


def test_parameters_of_the_baseline():
    """SAPA, Table 4: 49.53M, which count torchvision's classifier of 1,000 classes as well."""
    total = count_all("nearest")
    assert total == 47_481_968
    assert f"{(total + 2048 * 1000 + 1000) / 1e6:.2f}" == "49.53"
    assert count(build(BTS.format("nearest")).decode_head) == 23_973_936


@pytest.mark.parametrize("slug", SLUGS[1:])
def test_parameters_of_upsamplers(slug):
    model = build(BTS.format(slug))
    stages = model.decode_head.upsample_modules
    assert [s.in_channels for s in stages] == [2048, 512, 128, 128]
    assert [s.guide_channels for s in stages] == [1024, 512, 256, 64]
    increment = count_all(slug) - 47_481_968
    if slug in PRINTED:
        assert f"+{increment / 1e6:.2f}" == PRINTED[slug]
    else:  # 2 * groups * 2 * 2 offsets from each channel, and as many scopes
        factor = 2 if slug.endswith("plus") else 1
        assert count_weights(model) == factor * 32 * (2048 + 512 + 128 + 128)


@pytest.mark.parametrize("slug", SLUGS)
def test_the_settings_of_all_are_one(slug):
    ours, first = (copy.deepcopy(load(BTS.format(name))._cfg_dict) for name in (slug, "nearest"))
    for cfg in (ours, first):
        cfg.pop("upsample_cfg")
        cfg["model"]["decode_head"].pop("upsample_cfg")
    assert ours == first


def test_model():
    cfg = load(BTS.format("nearest"))
    loss = build(BTS.format("nearest")).decode_head.loss_decode
    assert (loss.scale, loss.variance_focus, loss.min_depth) == (10, 0.85, 0.1)
    assert (loss.eps, loss.unbiased, loss.loss_weight) == (0, False, 1)
    assert not build_backbone(cfg).conv1.weight.requires_grad
    assert build_backbone(cfg).layer4[0].downsample[1].weight.requires_grad
    head = cfg.model.decode_head
    assert (head.min_depth, head.max_depth) == (1e-3, 10)
    assert cfg.model.data_preprocessor.seg_pad_val == 0  # depth that is not known
    assert cfg.model.test_cfg.mode == "whole"
    original = Config.fromfile(model_configs()[BTS.format("nearest")])
    init_cfg = original.model.backbone.init_cfg
    assert init_cfg == dict(type="Pretrained", checkpoint="torchvision://resnet50")


def test_data():
    cfg = load(BTS.format("nearest"))
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps["RandomRotate"].prob == 1 and steps["RandomRotate"].degree == 2.5
    assert steps["RandomCrop"].crop_size == (416, 544)
    assert not any("Resize" in step.type for step in cfg.test_dataloader.dataset.pipeline)
    images = 24_231
    batch = cfg.train_dataloader.batch_size
    assert (batch, -(-images // batch)) == (4, 6058)
    assert cfg.train_dataloader.sampler == dict(type="DefaultSampler", shuffle=True)


def test_learning_rate_of_every_step():
    """From 1e-4 in the first to 1e-5 in the last of all epochs, by the power of 0.9."""
    cfg = load(BTS.format("nearest"))
    assert (cfg.train_cfg.type, cfg.train_cfg.max_epochs) == ("EpochBasedTrainLoop", 50)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr)
    settings = dict(cfg.param_scheduler, optimizer=optimizer)
    assert settings.pop("convert_to_iter_based") is True
    cls = PARAM_SCHEDULERS.get(settings.pop("type"))
    scheduler = cls.build_iter_from_epoch(**settings, epoch_length=7)
    rates = []
    for _ in range(350):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    expected = [1e-5 + 9e-5 * (1 - step / 349) ** 0.9 for step in range(350)]
    assert rates == pytest.approx(expected, rel=1e-9)


def test_weights_of_the_decoder_do_not_decay():
    cfg = load(BTS.format("dysample"))
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = nn.Module()
        model.backbone = build_backbone(cfg)
        settings = copy.deepcopy(cfg.model.decode_head)
        settings.update(channels=32, in_channels=[8] * 5)
        model.decode_head = MODELS.build(settings)
        optimizer = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper)).optimizer
    assert type(optimizer).__name__ == "AdamW"
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert {decays[id(p)] for p in model.decode_head.parameters()} == {0}
    trained = [p for p in model.backbone.parameters() if p.requires_grad]
    assert {decays[id(p)] for p in trained} == {0.01}
    assert {(group["lr"], group["eps"]) for group in optimizer.param_groups} == {(1e-4, 1e-3)}


def test_shapes():
    names = {name for name in model_configs() if name.startswith("bts_r18")}
    slugs = ("nearest", "dysample", "dysample-plus", "sapa-b")
    assert names == {f"bts_r18_{slug}_shapes" for slug in slugs}
    backbone = build_backbone(load("bts_r18_dysample_shapes"))
    assert all(p.requires_grad for p in backbone.parameters())
    maps = backbone(torch.zeros(2, 3, 64, 64))
    for slug in slugs:
        head = build(f"bts_r18_{slug}_shapes").decode_head
        assert head.in_channels == [x.shape[1] for x in maps]
