"""Names, types and ranges of settings. More are in tools/test_bad_input.py."""

from __future__ import annotations

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader

from mmdysample.engine.checks import check_batches, check_settings, check_top_level
from mmdysample.engine.checks.parts import check_parts
from mmdysample.engine.checks.settings import check_metrics, check_panopticapi, check_save_best
from mmdysample.errors import UserError


@pytest.mark.parametrize(
    "settings",
    [
        {},
        dict(train_dataloader=None, train_cfg=None, randomness=None),
        # `--cfg-options train_cfg.max_iters=1e5` is a float, which mmengine takes.
        dict(train_cfg=dict(max_iters=1e5, val_interval=1e2)),
        dict(randomness=dict(seed=None), optim_wrapper=dict(optimizer=dict(lr=0))),
        dict(randomness=dict(seed=2**32 - 1)),
        dict(train_dataloader=dict(dataset={}, num_workers=0, persistent_workers=False)),
        dict(train_dataloader=dict(dataset={}, num_workers=1, prefetch_factor=2)),
    ],
    ids=str,
)
def test_accepted(settings):
    check_settings(Config(settings))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (dict(train_cfg=dict(max_iters=1.5)), "train_cfg.max_iters"),
        (dict(default_hooks=dict(checkpoint=dict(interval="1"))), "default_hooks.checkpoint.inter"),
        (dict(default_hooks=dict(checkpoint=dict(max_keep_ckpts="two"))), "max_keep_ckpts"),
        (dict(default_hooks=dict(logger=dict(interval=0))), "default_hooks.logger.interval"),
        (dict(train_cfg=dict(max_epochs=float("inf"))), "train_cfg.max_epochs"),
        (dict(val_dataloader=dict(dataset={}, num_workers=-1)), "val_dataloader.num_workers"),
        (dict(test_dataloader=dict(batch_size=1)), "test_dataloader"),
        (dict(train_dataloader=dict(dataset={}, batch_size=True)), "batch_size"),
        (dict(randomness=dict(seed=2**32)), "randomness.seed"),
        (
            dict(val_dataloader=dict(dataset={}, num_workers=0, persistent_workers=True)),
            "val_dataloader has persistent_workers=True, which needs num_workers of at least 1",
        ),
        (dict(optim_wrapper=dict(optimizer=dict(weight_decay="0.1"))), "optimizer.weight_decay"),
    ],
    ids=str,
)
def test_refused(settings, named):
    with pytest.raises(UserError, match=named):
        check_settings(Config(settings))


@pytest.mark.parametrize("key", ["train_pipeline", "v3d_train_pipeline", "dataset_type", "colour"])
def test_a_config_may_have_variables(key):
    check_top_level(Config({key: 1}))
    check_top_level(Config({key: 1}), [f"{key}.x"])


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("load_form", "load_from"),
        ("optim_wraper", "optim_wrapper"),
        ("train_dataloder", "train_dataloader"),
        ("custom_hook", "custom_hooks"),
        ("workdir", "work_dir"),
        ("resum", "resume"),
    ],
)
def test_slips_of_the_pen(key, meant):
    with pytest.raises(UserError, match=f"nothing reads '{key}' .*did you mean '{meant}'"):
        check_top_level(Config({key: 1}))
    with pytest.raises(UserError, match=f"--cfg-options {key}.*did you mean '{meant}'"):
        check_top_level(Config(), [key])


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


@pytest.mark.parametrize(
    ("metric", "chosen", "refused"),
    [
        (dict(type="CocoMetric"), "coco/bbox_mAP_50", False),
        (dict(type="CocoMetric"), "auto", False),
        (dict(type="CocoMetric"), None, False),
        (dict(type="CocoMetric"), "coco/segm_mAP", True),
        (dict(type="CocoMetric", metric=["bbox", "segm"]), "coco/segm_mAP", False),
        (dict(type="CocoMetric", prefix="val"), "coco/bbox_mAP", True),
        (dict(type="CocoMetric", classwise=True), "coco/cat_precision", False),
        (dict(type="CocoMetric", metric="proposal"), "coco/AR_s@1000", False),
        (dict(type="VOCMetric"), "what is not known here", False),
        (dict(type="mmseg.IoUMetric"), ["mIoU", "aAcc"], False),
        (dict(type="mmseg.IoUMetric"), ["mIoU", "mDice"], True),
        (dict(type="mmseg.IoUMetric", iou_metrics=["mDice"]), "mDice", False),
    ],
    ids=str,
)
def test_save_best(metric, chosen, refused):
    hooks = dict(checkpoint=dict(type="CheckpointHook", save_best=chosen))
    cfg = Config(dict(default_scope="mmdet", default_hooks=hooks, val_evaluator=metric))
    parts = check_parts(cfg, ["val_evaluator"])
    if refused:
        with pytest.raises(UserError, match=r"save_best: .* is not measured"):
            check_save_best(cfg, parts)
    else:
        check_save_best(cfg, parts)


def test_panopticapi_is_missing_but_not_needed(monkeypatch):
    metric = dict(type="CocoPanopticMetric", ann_file="x", seg_prefix="y")
    cfg = Config(dict(default_scope="mmdet", val_evaluator=metric))
    parts = check_parts(cfg, ["val_evaluator"])
    there = "mmdysample.engine.checks.settings.find_spec"
    monkeypatch.setattr(there, lambda name: "found")
    check_panopticapi(parts)
    monkeypatch.setattr(there, lambda name: None)
    with pytest.raises(UserError, match="configs/panoptic_fpn"):
        check_panopticapi(parts)


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        (dict(type="CocoMetric", metric="bbx"), r"'bbx' \(did you mean 'bbox'\?\); it measures"),
        (dict(type="CocoMetric", metric=["bbox", "segmentation"]), "'segmentation'"),
        (dict(type="mmseg.IoUMetric", iou_metrics=["mIOU"]), r"'mIOU' \(did you mean 'mIoU'\?\)"),
    ],
    ids=str,
)
def test_metrics_that_no_evaluator_knows(metric, sentence):
    cfg = Config(dict(default_scope="mmdet", val_evaluator=metric))
    parts = check_parts(cfg, ["val_evaluator"])
    with pytest.raises(UserError, match=f"^val_evaluator: .* is {sentence}"):
        check_metrics(parts)


@pytest.mark.parametrize(
    "metric",
    [
        dict(type="CocoMetric"),
        dict(type="CocoMetric", metric=["bbox", "segm"]),
        dict(type="mmseg.IoUMetric", iou_metrics=["mIoU", "mFscore"]),
    ],
    ids=str,
)
def test_metrics_that_evaluators_know(metric):
    cfg = Config(dict(default_scope="mmdet", val_evaluator=metric))
    check_metrics(check_parts(cfg, ["val_evaluator"]))


def test_an_option_for_a_variable_names_the_place_that_has_its_value():
    """The config has used it already, so the option would change nothing."""
    upsampler = dict(type="DySample", groups=4)
    cfg = Config(
        dict(
            upsample_cfg=upsampler,
            lr=1,  # a number may be equal by chance
            other=dict(a=1),
            model=dict(neck=dict(upsample_cfg=upsampler), heads=[upsampler]),
            train_cfg=dict(max_iters=1),
        )
    )
    sentence = "set model.neck.upsample_cfg.type and model.heads.0.type"
    with pytest.raises(UserError, match=f"'upsample_cfg' is a variable.*: {sentence}$"):
        check_top_level(cfg, ["upsample_cfg.type"])
    check_top_level(cfg, ["model.neck.upsample_cfg.type", "lr", "other.a", "train_cfg.max_iters"])
