"""DepthFormer trained on Shapes through the tools: it learns, also after a kill."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")
pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

from mmdysample.engine.checkpoint import load_checkpoint_file
from tests.engine.accidents import accident
from tests.engine.zygote import TEST, TRAIN, shared_zygote
from tests.learning import (
    CONFIGS,
    best_constant_depth,
    draw_shapes,
    train,
    training_state,
    write_short_config,
)
from tests.tools.test_dist import run, run_well

CONFIG = CONFIGS / "depthformer_swin-small_dysample_shapes.py"
ITERATIONS = 50


@pytest.mark.slow
def test_depthformer_learns(tmp_path):
    options = [
        *draw_shapes(tmp_path / "shapes"),
        *(f"train_cfg.{name}={ITERATIONS}" for name in ("max_iters", "val_interval")),
        f"default_hooks.checkpoint.interval={ITERATIONS}",
        "param_scheduler.0.end=10",
        *(f"param_scheduler.1.{name}={ITERATIONS}" for name in ("end", "T_max")),
    ]
    scores = train(CONFIG, options, tmp_path)
    abs_rel, rmse = best_constant_depth(tmp_path / "shapes" / "depth" / "validation")
    assert scores["abs_rel"] < 0.75 * abs_rel
    assert scores["rmse"] < 0.75 * rmse

    checkpoint = f"train/iter_{ITERATIONS}.pth"
    arguments = (checkpoint, "--work-dir", "test", "--cfg-options", *options)
    result = shared_zygote().run(TEST, CONFIG, *arguments, cwd=tmp_path)
    assert result.status == 0, result.stderr
    (log,) = (tmp_path / "test").glob("*/[0-9]*.json")
    tested = json.loads(log.read_text())
    for name in ("abs_rel", "rmse", "d1", "log10"):
        assert tested[name] == scores[name], name


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Path:
    """A directory with ``config.py``."""
    directory = tmp_path_factory.mktemp("short")
    model = "data_preprocessor=dict(size=(64, 64)), neck=dict(dropout=0.1)"
    write_short_config(CONFIG, directory, model)
    return directory


@pytest.mark.slow
def test_two_processes_killed_and_resumed_equal_unkilled(short):
    """The second of two processes is killed in the third iteration, and ends the first one."""
    zygote = shared_zygote()
    seed = ("--cfg-options", "randomness.seed=3")
    run_well(zygote, 2, TRAIN, "config.py", "--work-dir", "whole", *seed, cwd=short)
    lethal = short / "lethal.py"
    lethal.write_text((short / "config.py").read_text() + accident(iteration=3, rank=1))
    arguments = ("--work-dir", "killed", *seed)
    first, second = run(zygote, 2, TRAIN, lethal, *arguments, cwd=short)
    assert second.status == -signal.SIGKILL and first.status not in (0, 2)
    assert not (short / "killed" / "iter_4.pth").exists()
    stdout = run_well(zygote, 2, TRAIN, "config.py", *arguments, "--resume", cwd=short)
    assert "killed/iter_2.pth" in stdout
    resumed, whole = (training_state(short / name / "iter_4.pth") for name in ("killed", "whole"))
    assert resumed.keys() == whole.keys()
    assert [name for name in whole if not torch.equal(resumed[name], whole[name])] == []
    started = training_state(short / "whole" / "iter_2.pth")
    name = "decode_head.upsample_modules.0.offset.weight"
    assert not torch.equal(started[name], whole[name])


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="mixed precision needs a CUDA GPU")
def test_mixed_precision(short):
    arguments = ("config.py", "--work-dir", "amp", "--amp")
    result = shared_zygote().run(TRAIN, *arguments, cwd=short)
    assert result.status == 0, result.stderr
    (log,) = (short / "amp").glob("*/vis_data/scalars.json")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    scores = entries[-1]
    assert np.isfinite([scores["abs_rel"], scores["rmse"]]).all()
    assert load_checkpoint_file(short / "amp" / "iter_4.pth")["optimizer"]["loss_scaler"]
