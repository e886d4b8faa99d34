"""Mask R-CNN and Panoptic FPN with DySample learn the Shapes data set: a minute each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from tests.engine.zygote import ROOT, TEST, TRAIN, shared_zygote

EPOCHS = 3
# 120 iterations: shorter than the config's schedule, and loaded without processes of its own.
SCHEDULE = (
    f"train_cfg.max_epochs={EPOCHS}",
    f"train_cfg.val_interval={EPOCHS}",
    f"param_scheduler.1.end={EPOCHS}",
    f"param_scheduler.1.T_max={EPOCHS}",
    "param_scheduler.0.end=20",
    f"default_hooks.checkpoint.interval={EPOCHS}",
)
LOADING = [
    f"{loader}_dataloader.{setting}"
    for loader in ("train", "val", "test")
    for setting in ("num_workers=0", "persistent_workers=False")
]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    command = [sys.executable, ROOT / "tools/make_shapes.py", folder, "--train", 160, "--val", 32]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return folder


def scores_before_and_after(name: str, shapes: Path, folder: Path, **evaluator) -> list[dict]:
    """Metrics of the model with random weights, and of the same after its training."""
    config = ROOT / "configs/shapes" / name
    places = [f"{loader}_dataloader.dataset.data_root={shapes}/" for loader in ("train", "val")]
    places += [f"test_dataloader.dataset.data_root={shapes}/"]
    for part in ("val", "test"):
        places += [f"{part}_evaluator.{key}={shapes}/{path}" for key, path in evaluator.items()]
    options = ["--cfg-options", *places, *LOADING]

    cfg = Config.fromfile(config)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(cfg.model)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), folder / "random.pth")
    calls = [
        (TEST, config, folder / "random.pth", "--work-dir", folder / "before", *options),
        (TRAIN, config, "--work-dir", folder / "after", *options, *SCHEDULE),
    ]
    scores = []
    for call in calls:
        result = shared_zygote().run(*call, cwd=folder)
        assert result.status == 0, result.stderr
    for log in ("before/*/*.json", "after/*/vis_data/scalars.json"):
        (path,) = folder.glob(log)
        scores.append(json.loads(path.read_text().splitlines()[-1]))
    return scores


def test_panoptic_fpn_learns(shapes, tmp_path):
    before, after = scores_before_and_after(
        "panoptic-fpn_r18_fpn_dysample_shapes.py",
        shapes,
        tmp_path,
        ann_file="annotations/panoptic_val2017.json",
        seg_prefix="annotations/panoptic_val2017/",
    )
    gains = {
        key: after[f"coco_panoptic/{key}"] - before[f"coco_panoptic/{key}"]
        for key in ("PQ", "PQ_th", "PQ_st")
    }
    # Measured: PQ 26, of things 11, of stuff 56; random weights have 0.4, 0 and 1.
    assert gains["PQ"] > 13
    assert gains["PQ_th"] > 3
    assert gains["PQ_st"] > 30


def test_mask_rcnn_learns(shapes, tmp_path):
    before, after = scores_before_and_after(
        "mask-rcnn_r18_fpn_dysample_shapes.py",
        shapes,
        tmp_path,
        ann_file="annotations/instances_val2017.json",
    )
    # Measured: mAP 0.11, mAP50 0.28; random weights have 0.00.
    assert after["coco/segm_mAP"] - before["coco/segm_mAP"] > 0.05
    assert after["coco/segm_mAP_50"] - before["coco/segm_mAP_50"] > 0.14
