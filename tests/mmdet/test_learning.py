"""A short training of Panoptic FPN with DySample on Shapes finds objects, masks and stuff."""

from __future__ import annotations

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from tests.learning import CONFIGS, draw_shapes, train

EPOCHS = 4  # of 20 iterations: shorter than the config's schedule


@pytest.mark.slow
def test_panoptic_fpn_learns(tmp_path):
    data = tmp_path / "shapes"
    segments = data / "annotations" / "panoptic_val2017"
    options = [
        *draw_shapes(data),
        *(f"{part}_evaluator.ann_file={segments}.json" for part in ("val", "test")),
        *(f"{part}_evaluator.seg_prefix={segments}/" for part in ("val", "test")),
        *(f"train_cfg.{name}={EPOCHS}" for name in ("max_epochs", "val_interval")),
        *(f"param_scheduler.1.{name}={EPOCHS}" for name in ("end", "T_max")),
        "param_scheduler.0.end=10",
        # A quarter of the regions for the second stage, which takes most of the time.
        "model.train_cfg.rcnn.sampler.num=128",
        f"default_hooks.checkpoint.interval={EPOCHS}",
    ]
    scores = train(CONFIGS / "panoptic-fpn_r18_fpn_dysample_shapes.py", options, tmp_path)
    # Measured: PQ 18, of things 4.6, of stuff 45; random weights have 0.4, 0 and 1.
    assert scores["coco_panoptic/PQ"] > 10
    assert scores["coco_panoptic/PQ_th"] > 1.5
    assert scores["coco_panoptic/PQ_st"] > 25
