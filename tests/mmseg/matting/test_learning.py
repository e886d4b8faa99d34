"""A short training of the matting model with DySample on Shapes, tested as it was evaluated."""

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

ITERATIONS = 200


def best_constants(mattes: Path) -> tuple[float, float]:
    """SAD and MSE of the alpha, one for all unknown pixels of all images, that makes each least."""
    sads, mses = [], []
    for path in sorted((mattes / "alpha").iterdir()):
        true = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) / 255
        trimap = cv2.imread(str(mattes / "trimap" / path.name), cv2.IMREAD_GRAYSCALE)
        errors = true[trimap == 128][:, None] - np.arange(256) / 255
        sads.append(np.abs(errors).sum(0) / 1000)
        mses.append((errors**2).mean(0))
    assert len(sads) > 4
    return np.mean(sads, 0).min(), np.mean(mses, 0).min()


@pytest.mark.slow
def test_the_matting_model_learns(tmp_path):
    options = [
        *draw_shapes(tmp_path / "shapes"),
        *(f"train_cfg.{name}={ITERATIONS}" for name in ("max_iters", "val_interval")),
        "train_dataloader.dataset.pipeline.4.crop_size=64",
        f"default_hooks.checkpoint.interval={ITERATIONS}",
        "param_scheduler.0.end=10",
        *(f"param_scheduler.1.{name}={ITERATIONS}" for name in ("end", "T_max")),
    ]
    config = CONFIGS / "a2u-matting_r18_dysample_shapes.py"
    scores = train(config, options, tmp_path)
    sad, mse = best_constants(tmp_path / "shapes" / "matting" / "validation")
    # Measured: SAD 0.309 and MSE 0.080, where the best constants have 0.661 and 0.218.
    assert scores["SAD"] < 0.6 * sad
    assert scores["MSE"] < 0.5 * mse

    checkpoint = f"train/iter_{ITERATIONS}.pth"
    arguments = (checkpoint, "--work-dir", "test", "--cfg-options", *options)
    run = shared_zygote().run(TEST, config, *arguments, cwd=tmp_path)
    assert run.status == 0, run.stderr
    (log,) = (tmp_path / "test").glob("*/[0-9]*.json")
    tested = json.loads(log.read_text())
    for name in ("SAD", "MSE", "Grad", "Conn"):
        assert tested[name] == scores[name], name
