"""A short training of Panoptic FPN with DySample on Shapes finds objects, masks and stuff."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from tests.engine.zygote import ROOT, TRAIN, shared_zygote

EPOCHS = 3  # of 40 iterations: shorter than the config's schedule


@pytest.mark.slow
def test_panoptic_fpn_learns(tmp_path):
    data = tmp_path / "shapes"
    call = [sys.executable, ROOT / "tools" / "make_shapes.py", data]
    subprocess.run([*call, "--train", "160", "--val", "16"], check=True)
    parts = ("train", "val", "test")
    options = [
        *(f"{part}_dataloader.dataset.data_root={data}/" for part in parts),
        *(f"{part}_dataloader.num_workers=0" for part in parts),
        *(f"{part}_dataloader.persistent_workers=False" for part in parts),
        *(f"{p}_evaluator.ann_file={data}/annotations/panoptic_val2017.json" for p in parts[1:]),
        *(f"{p}_evaluator.seg_prefix={data}/annotations/panoptic_val2017/" for p in parts[1:]),
        *(f"train_cfg.{name}={EPOCHS}" for name in ("max_epochs", "val_interval")),
        *(f"param_scheduler.1.{name}={EPOCHS}" for name in ("end", "T_max")),
        "param_scheduler.0.end=20",
        f"default_hooks.checkpoint.interval={EPOCHS}",
    ]
    config = ROOT / "configs/shapes/panoptic-fpn_r18_fpn_dysample_shapes.py"
    arguments = ("--work-dir", "train", "--cfg-options", *options)
    run = shared_zygote().run(TRAIN, config, *arguments, cwd=tmp_path)
    assert run.status == 0, run.stderr
    (log,) = (tmp_path / "train").glob("*/vis_data/scalars.json")
    scores = json.loads(log.read_text().splitlines()[-1])
    # Measured: PQ 26, of things 11, of stuff 56; random weights have 0.4, 0 and 1.
    assert scores["coco_panoptic/PQ"] > 13
    assert scores["coco_panoptic/PQ_th"] > 3
    assert scores["coco_panoptic/PQ_st"] > 30
