"""A short training of SegNet with SAPA on Shapes, through the tools, tested as it was evaluated."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")
pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

from tests.engine.zygote import TEST, shared_zygote
from tests.learning import CONFIGS, draw_shapes, train

ITERATIONS = 40


@pytest.mark.slow
def test_segnet_learns(tmp_path):
    options = [
        *draw_shapes(tmp_path / "shapes"),
        *(f"train_cfg.{name}={ITERATIONS}" for name in ("max_iters", "val_interval")),
        f"default_hooks.checkpoint.interval={ITERATIONS}",
        "param_scheduler.0.end=10",
        *(f"param_scheduler.1.{name}={ITERATIONS}" for name in ("end", "T_max")),
    ]
    config = CONFIGS / "segnet_small_sapa-b_shapes.py"
    scores = train(config, options, tmp_path)
    # Measured: mIoU 14.7, aAcc 60.5. The best constant, sky, has mIoU 2.6 and aAcc 30.9.
    assert scores["mIoU"] > 10
    assert scores["aAcc"] > 50

    checkpoint = f"train/iter_{ITERATIONS}.pth"
    arguments = (checkpoint, "--work-dir", "test", "--cfg-options", *options)
    run = shared_zygote().run(TEST, config, *arguments, cwd=tmp_path)
    assert run.status == 0, run.stderr
    (log,) = (tmp_path / "test").glob("*/[0-9]*.json")
    tested = json.loads(log.read_text())
    for name in ("aAcc", "mIoU", "mAcc"):
        assert tested[name] == scores[name], name
