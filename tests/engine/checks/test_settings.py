"""Names and ranges of settings. More are in tools/test_bad_input.py."""

from __future__ import annotations

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader

import mmdysample.mmdet  # noqa: F401 - registers PanopticQualityMetric
from mmdysample.engine.checks import (
    check_batches,
    check_checkpoint_names,
    check_top_level,
    check_whole_numbers,
)
from mmdysample.engine.checks.parts import check_parts
from mmdysample.engine.checks.settings import check_metrics
from mmdysample.errors import UserError


@pytest.mark.parametrize(
    "settings",
    [
        dict(train_dataloader=None, train_cfg=None, randomness=dict(seed=None)),
        # `--cfg-options train_cfg.max_iters=1e5` is a float, which mmengine takes.
        dict(train_cfg=dict(max_iters=1e5, val_interval=1)),
        dict(default_hooks=dict(checkpoint=dict(interval=-1))),
        dict(train_dataloader=dict(num_workers=0)),
    ],
    ids=str,
)
def test_whole_numbers(settings):
    check_whole_numbers(Config(settings))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(train_cfg=dict(max_iters=1.5)), "train_cfg.max_iters .* at least 1, got 1.5"),
        (dict(train_cfg=dict(max_epochs=float("inf"))), "train_cfg.max_epochs .*, got inf"),
        (dict(train_cfg=dict(val_interval=0)), "train_cfg.val_interval"),
        (dict(default_hooks=dict(checkpoint=dict(interval="1"))), "default_hooks.checkpoint.inter"),
        (dict(val_dataloader=dict(num_workers=-1)), "val_dataloader.num_workers .* at least 0"),
        (dict(train_dataloader=dict(batch_size=True)), "batch_size .*, got True"),
    ],
    ids=str,
)
def test_others(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        check_whole_numbers(Config(settings))


@pytest.mark.parametrize(
    ("template", "accepted"),
    [
        *((template, True) for template in (None, "epoch_{}.pth", "{}.ckpt")),
        *((template, False) for template in ("last.pth", "{0}.pth", "{:03d}.pth", "{}_{}.pth")),
        *((template, False) for template in ("{}_{0}.pth", "{{}}.pth", "{}}.pth", "", 3)),
    ],
)
def test_names_of_checkpoints(template, accepted):
    cfg = Config(dict(default_hooks=dict(checkpoint=dict(filename_tmpl=template))))
    if accepted:
        check_checkpoint_names(cfg)
    else:
        with pytest.raises(UserError, match=r"filename_tmpl .* must have {} once.*got "):
            check_checkpoint_names(cfg)


@pytest.mark.parametrize("key", ["train_pipeline", "v3d_train_pipeline", "dataset_type", "colour"])
def test_a_config_may_have_variables(key):
    check_top_level(Config({key: 1}))


@pytest.mark.parametrize(
    ("key", "meant"),
    [("load_form", "load_from"), ("custom_hook", "custom_hooks"), ("resum", "resume")],
)
def test_misspelt_keys(key, meant):
    with pytest.raises(UserError, match=f"nothing reads '{key}' .*did you mean '{meant}'"):
        check_top_level(Config({key: 1}))
    with pytest.raises(UserError, match=f"--cfg-options {key}.*did you mean '{meant}'"):
        check_top_level(Config(), [key])


def test_an_option_for_a_variable_names_the_place_that_has_its_value():
    """The config has used it already, so the option would change nothing."""
    upsampler = dict(type="DySample", groups=4)
    cfg = Config(
        dict(
            upsample_cfg=upsampler,
            lr=1,  # a number may be equal by chance
            model=dict(neck=dict(upsample_cfg=upsampler), heads=[upsampler]),
            train_cfg=dict(max_iters=1),
        )
    )
    sentence = "set model.heads.0.type and model.neck.upsample_cfg.type"
    with pytest.raises(UserError, match=f"'upsample_cfg' is a variable.*: {sentence}$"):
        check_top_level(cfg, ["upsample_cfg.type"])
    with pytest.raises(UserError, match=r"'lr' is a variable.*: set what it was used for$"):
        check_top_level(cfg, ["lr"])
    check_top_level(cfg, ["model.neck.upsample_cfg.type", "train_cfg.max_iters", "load_from"])


@pytest.mark.parametrize(
    ("sampler", "size", "drop_last", "refused"),
    [
        (DefaultSampler, 4, True, True),
        (DefaultSampler, 3, True, False),
        (DefaultSampler, 4, False, False),
        (InfiniteSampler, 4, True, False),  # goes on into the next pass
    ],
)
def test_batches(sampler, size, drop_last, refused):
    data = [0, 1, 2]
    batches = BatchSampler(sampler(data), size, drop_last)
    # As the training dataloader, and as the others.
    for loader in (
        DataLoader(data, batch_sampler=batches),
        DataLoader(data, size, sampler=sampler(data), drop_last=drop_last),
    ):
        if refused:
            with pytest.raises(UserError, match=r"3 samples, .* no batch of batch_size=4"):
                check_batches(loader)
        else:
            check_batches(loader)


def check(metric: dict, chosen=None) -> None:
    hooks = dict(checkpoint=dict(type="CheckpointHook", save_best=chosen))
    cfg = Config(dict(default_scope="mmdet", default_hooks=hooks, val_evaluator=metric))
    check_metrics(cfg, check_parts(cfg, ["val_evaluator"]))


BOTH = [dict(type="CocoMetric"), dict(type="mmseg.IoUMetric")]


@pytest.mark.parametrize(
    ("metric", "chosen"),
    [
        (dict(type="CocoMetric"), "coco/bbox_mAP_50"),
        (dict(type="CocoMetric"), "auto"),
        (dict(type="CocoMetric"), None),
        (dict(type="CocoMetric", metric=["bbox", "segm"]), "coco/segm_mAP"),
        (dict(type="CocoMetric", prefix="val"), "val/bbox_mAP"),
        (dict(type="CocoMetric", classwise=True), "coco/cat_precision"),
        (dict(type="PanopticQualityMetric", classwise=True), "coco_panoptic/cat_PQ"),
        (dict(type="CocoMetric", metric="proposal"), "coco/AR_s@1000"),
        (dict(type="VOCMetric"), "what is not known here"),
        (dict(type="mmseg.IoUMetric"), ["mIoU", "aAcc"]),
        (dict(type="mmseg.IoUMetric", iou_metrics=["mDice", "mFscore"]), "mRecall"),
        (BOTH, ["mIoU", "coco/bbox_mAP"]),
        ([dict(type="VOCMetric"), *BOTH], "what is not known here"),
    ],
    ids=str,
)
def test_what_is_measured(metric, chosen):
    check(metric, chosen)


@pytest.mark.parametrize(
    ("metric", "chosen"),
    [
        (dict(type="CocoMetric"), "coco/segm_mAP"),
        (dict(type="CocoMetric", prefix="val"), "coco/bbox_mAP"),
        (dict(type="mmseg.IoUMetric"), ["mIoU", "mDice"]),
        (dict(type="mmseg.IoUMetric"), "bIoU"),
        (dict(type="PanopticQualityMetric"), "PQ_things"),
        (BOTH, "mIou"),
    ],
    ids=str,
)
def test_what_is_not(metric, chosen):
    with pytest.raises(UserError, match=r"save_best: .* is not measured"):
        check(metric, chosen)


def test_an_unknown_metric_of_pixels():
    known = r"'mIOU' \(did you mean 'mIoU'\?\); it measures mIoU, mDice, mFscore"
    with pytest.raises(UserError, match=f"^val_evaluator: iou_metrics of IoUMetric is {known}"):
        check(dict(type="mmseg.IoUMetric", iou_metrics=["mDice", "mIOU"]))
