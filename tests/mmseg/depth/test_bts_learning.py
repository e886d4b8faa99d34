"""A short training of BTS with DySample on Shapes, tested as it was evaluated."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")
pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

from tests.engine.zygote import TEST, shared_zygote
from tests.learning import CONFIGS, best_constant_depth, draw_shapes, train

ITERATIONS = 100


@pytest.mark.slow
def test_bts_learns(tmp_path):
    options = [
        *draw_shapes(tmp_path / "shapes"),
        *(f"train_cfg.{name}={ITERATIONS}" for name in ("max_iters", "val_interval")),
        f"default_hooks.checkpoint.interval={ITERATIONS}",
        "param_scheduler.0.end=10",
        *(f"param_scheduler.1.{name}={ITERATIONS}" for name in ("end", "T_max")),
    ]
    config = CONFIGS / "bts_r18_dysample_shapes.py"
    scores = train(config, options, tmp_path)
    abs_rel, rmse = best_constant_depth(tmp_path / "shapes" / "depth" / "validation")
    # Measured: 0.28 and 1.33 m, of a constant 0.59 and 2.54 m.
    assert scores["abs_rel"] < 0.7 * abs_rel
    assert scores["rmse"] < 0.7 * rmse

    checkpoint = f"train/iter_{ITERATIONS}.pth"
    arguments = (checkpoint, "--work-dir", "test", "--cfg-options", *options)
    run = shared_zygote().run(TEST, config, *arguments, cwd=tmp_path)
    assert run.status == 0, run.stderr
    (log,) = (tmp_path / "test").glob("*/[0-9]*.json")
    tested = json.loads(log.read_text())
    for name in ("abs_rel", "rmse", "d1", "log10"):
        assert tested[name] == scores[name], name
