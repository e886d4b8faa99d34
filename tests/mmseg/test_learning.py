"""A short training of UPerNet with DySample on Shapes, tested as it was evaluated."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")
pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

from tests.engine.zygote import ROOT, TEST, TRAIN, shared_zygote

ITERATIONS = 60


@pytest.mark.slow
def test_upernet_learns(tmp_path):
    data = tmp_path / "shapes"
    call = [sys.executable, ROOT / "tools" / "make_shapes.py", data]
    subprocess.run([*call, "--train", "160", "--val", "16"], check=True)
    parts = ("train", "val", "test")
    options = [
        *(f"{part}_dataloader.dataset.data_root={data}" for part in parts),
        *(f"{part}_dataloader.num_workers=0" for part in parts),
        *(f"{part}_dataloader.persistent_workers=False" for part in parts),
        *(f"{part}_evaluator.type=BoundaryIoUMetric" for part in parts[1:]),
        *(f"train_cfg.{name}={ITERATIONS}" for name in ("max_iters", "val_interval")),
        f"default_hooks.checkpoint.interval={ITERATIONS}",
        "param_scheduler.0.end=10",
        *(f"param_scheduler.1.{name}={ITERATIONS}" for name in ("end", "T_max")),
    ]
    config = ROOT / "configs" / "shapes" / "upernet_r18_dysample_shapes.py"
    arguments = ("--work-dir", "train", "--cfg-options", *options)
    run = shared_zygote().run(TRAIN, config, *arguments, cwd=tmp_path)
    assert run.status == 0, run.stderr
    (log,) = (tmp_path / "train").glob("*/vis_data/scalars.json")
    scores = json.loads(log.read_text().splitlines()[-1])
    # Of twelve classes the four backgrounds alone, learned first, make 33; random weights are
    # below 8.
    assert scores["mIoU"] > 20
    assert scores["aAcc"] > 70

    checkpoint = f"train/iter_{ITERATIONS}.pth"
    arguments = (checkpoint, "--work-dir", "test", "--cfg-options", *options)
    run = shared_zygote().run(TEST, config, *arguments, cwd=tmp_path)
    assert run.status == 0, run.stderr
    (log,) = (tmp_path / "test").glob("*/[0-9]*.json")
    tested = json.loads(log.read_text())
    for name in ("aAcc", "mIoU", "mAcc", "bIoU"):
        assert tested[name] == scores[name], name
