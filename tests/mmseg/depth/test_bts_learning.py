"""A short training of BTS with DySample on Shapes, tested as it was evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")
pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

from tests.engine.zygote import TEST, shared_zygote
from tests.learning import CONFIGS, draw_shapes, train

ITERATIONS = 100


def best_constant(directory: Path) -> tuple[float, float]:
    """The least abs_rel and the least rmse that one depth for all pixels can have, in meters."""
    errors = []
    for path in sorted(directory.glob("*.png")):
        depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) / 1000
        valid = depth[(depth > 1e-3) & (depth < 10)]
        constants = np.arange(0.5, 10, 0.1)[:, None]
        abs_rel = (abs(constants - valid) / valid).mean(1)
        errors.append((abs_rel, ((constants - valid) ** 2).mean(1) ** 0.5))
    abs_rel, rmse = np.mean(errors, axis=0)
    return abs_rel.min(), rmse.min()


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
    abs_rel, rmse = best_constant(tmp_path / "shapes" / "depth" / "validation")
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
