"""Mask R-CNN and Panoptic FPN run through the tools, and learn the Shapes data set with DySample.

The two trainings take a minute each.
"""

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


@pytest.mark.parametrize(
    ("name", "small"),
    [
        ("panoptic_fpn/panoptic-fpn_r50_fpn_dysample_1x_coco.py", "panoptic-fpn_r18_fpn_dysample"),
        ("mask_rcnn/mask-rcnn_r50_fpn_dysample_mask-head_1x_coco.py", "mask-rcnn_r18_fpn_dysample"),
    ],
)
def test_configs_of_coco_train_two_steps_and_evaluate(name, small, shapes, tmp_path):
    """With everything as it is for COCO, but the files, the classes and the pictures' size."""
    cfg = Config.fromfile(ROOT / "configs" / name)
    drawn = Config.fromfile(ROOT / f"configs/shapes/{small}_shapes.py")
    cfg.model.backbone.init_cfg = None
    for head in (cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head):
        head.num_classes = 8
    for head in ("semantic_head", "panoptic_fusion_head"):
        if head in cfg.model:
            cfg.model[head].update(num_things_classes=8, num_stuff_classes=4)
    for part in ("train", "val", "test"):
        loader, dataset = cfg[f"{part}_dataloader"], cfg[f"{part}_dataloader"].dataset
        loader.update(num_workers=0, persistent_workers=False)
        dataset.update(data_root=f"{shapes}/", metainfo=drawn.metainfo, indices=4)
        for step in dataset.pipeline:
            if step.type == "Resize":
                step.scale = (160, 160)
        if part != "train":
            evaluator = cfg[f"{part}_evaluator"]
            for key in ("ann_file", "seg_prefix"):
                if key in evaluator:
                    evaluator[key] = evaluator[key].replace("data/coco", str(shapes))
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.default_hooks.checkpoint.save_optimizer = False  # 200 MB
    cfg.dump(tmp_path / "config.py")
    work_dir = tmp_path / "work_dir"
    call = (tmp_path / "config.py", "--work-dir", work_dir)
    result = shared_zygote().run(TRAIN, *call, cwd=tmp_path)
    assert result.status == 0, result.stderr
    result = shared_zygote().run(TEST, call[0], work_dir / "epoch_1.pth", *call[1:], cwd=tmp_path)
    assert result.status == 0, result.stderr
    (trained,) = work_dir.glob("*/vis_data/scalars.json")
    (tested,) = work_dir.glob("*/*.json")
    rows = [json.loads(path.read_text().splitlines()[-1]) for path in (trained, tested)]
    metrics = [{k: v for k, v in row.items() if k.startswith("coco")} for row in rows]
    assert metrics[0].keys() >= drawn_metrics(drawn)
    assert metrics[0] == pytest.approx(metrics[1], nan_ok=True)


def drawn_metrics(cfg: Config) -> set[str]:
    if cfg.val_evaluator.type == "PanopticQualityMetric":
        return {"coco_panoptic/PQ", "coco_panoptic/SQ_th", "coco_panoptic/RQ_st"}
    return {"coco/bbox_mAP", "coco/segm_mAP"}
