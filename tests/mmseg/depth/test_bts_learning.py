"""Short trainings of BTS with DySample on Shapes, in one process and in two."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")
pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

from mmdysample.mmseg.depth.metric import NAMES
from tests.engine.zygote import TEST, TRAIN, shared_zygote
from tests.learning import (
    CONFIGS,
    best_constant_depth,
    draw_shapes,
    train,
    training_state,
    write_short_config,
)
from tests.tools.test_dist import run_well

CONFIG = CONFIGS / "bts_r18_dysample_shapes.py"
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
    scores = train(CONFIG, options, tmp_path)
    abs_rel, rmse = best_constant_depth(tmp_path / "shapes" / "depth" / "validation")
    # Measured: 0.28 and 1.35 m, of a constant 0.59 and 2.54 m.
    assert scores["abs_rel"] < 0.7 * abs_rel
    assert scores["rmse"] < 0.7 * rmse

    checkpoint = f"train/iter_{ITERATIONS}.pth"
    arguments = (checkpoint, "--work-dir", "test", "--cfg-options", *options)
    run = shared_zygote().run(TEST, CONFIG, *arguments, cwd=tmp_path)
    assert run.status == 0, run.stderr
    (log,) = (tmp_path / "test").glob("*/[0-9]*.json")
    tested = json.loads(log.read_text())
    for name in ("abs_rel", "rmse", "d1", "log10"):
        assert tested[name] == scores[name], name


def scores_of(directory: Path) -> dict[str, float]:
    """What ``test.py`` measured whose work dir is ``directory``."""
    (log,) = directory.glob("*/[0-9]*.json")
    return json.loads(log.read_text())


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Resumed they train what they did, and two of them measure what one does.

    Each process evaluates two of three images: the third is that of the other one once more.
    """
    zygote = shared_zygote()
    write_short_config(CONFIG, tmp_path)
    run_well(zygote, 2, TRAIN, "config.py", "--work-dir", "whole", cwd=tmp_path)
    (tmp_path / "resumed").mkdir()
    shutil.copy(tmp_path / "whole" / "iter_2.pth", tmp_path / "resumed")
    run_well(zygote, 2, TRAIN, "config.py", "--work-dir", "resumed", "--resume", cwd=tmp_path)
    whole, resumed = (
        training_state(tmp_path / name / "iter_4.pth") for name in ("whole", "resumed")
    )
    assert resumed.keys() == whole.keys()
    assert [name for name in whole if not torch.equal(resumed[name], whole[name])] == []

    for processes in (1, 2):
        arguments = ("config.py", "whole/iter_4.pth", "--work-dir", f"test{processes}")
        output = run_well(zygote, processes, TEST, *arguments, cwd=tmp_path)
        assert "1 of 3 images have no true depth" in output
        assert "depth of 2 images" in output
    one, two = (scores_of(tmp_path / f"test{processes}") for processes in (1, 2))
    for name in NAMES:
        assert two[name] == pytest.approx(one[name], rel=1e-5), name
