"""Every upsampler trains, and tools/analysis/training.py would tell if one did not."""

from __future__ import annotations

import csv
import importlib
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import torch
from mmengine.config import Config

from mmdysample import list_upsamplers

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools/analysis/training.py"
sys.path.insert(0, str(TOOL.parent))  # as when it is run
training = importlib.import_module("tools.analysis.training")
sys.path.remove(str(TOOL.parent))
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def call(*args: object, timeout: float = 60) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", str(TOOL), *map(str, args)]
    return subprocess.run(
        command, env=os.environ | ONE_THREAD, capture_output=True, text=True, timeout=timeout
    )


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    command = [sys.executable, ROOT / "tools/make_shapes.py", folder, "--train", 64, "--val", 1]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return folder


def test_every_registered_upsampler_has_a_preset():
    folder = ROOT / "configs/_base_/upsamplers"
    types = {Config.fromfile(path).upsample_cfg.type for path in folder.glob("*.py")}
    assert types == set(list_upsamplers())


def test_dysample_trains_in_both_models_and_precisions(shapes, tmp_path):
    """The other presets: tests/upsamplers/test_learning.py, and the tool without arguments."""
    table = tmp_path / "table.csv"
    result = call("dysample", "--data", shapes, "--iterations", 30, "--csv", table, timeout=600)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    runs = {(row["model"], row["upsampler"], row["precision"]) for row in rows}
    assert runs == {(m, "dysample", p) for m in training.MODELS for p in training.PRECISIONS}
    assert len(rows) == len(runs)
    assert [row for row in rows if row["verdict"] != "ok"] == []
    for row in rows:
        assert float(row["last_loss"]) <= 0.8 * float(row["first_loss"])
    assert result.returncode == 0, result.stderr


def test_without_names_every_preset_is_trained(shapes, monkeypatch):
    """Without training them: which runs the tool would make."""
    arguments = ["training.py", "--data", str(shapes), "--iterations", "10"]
    monkeypatch.setattr(sys, "argv", arguments)
    made = []

    def record(function, jobs, logs, workers):
        made.extend(jobs)
        return iter(())

    monkeypatch.setattr(training, "run_forked", record)
    assert training.main() == 0
    assert {(job.upsampler, job.model, job.precision) for job in made} == {
        (preset, model, precision)
        for preset in training.PRESETS
        for model in training.MODELS
        for precision in training.PRECISIONS
    }


BEFORE = {"up.weight": torch.zeros(2), "up.bias": torch.zeros(1)}
AFTER = {name: value + 1 for name, value in BEFORE.items()}
FALLING = [3.0 - 0.1 * i for i in range(20)]


@pytest.mark.parametrize(
    ("losses", "after", "problem"),
    [
        (FALLING, AFTER, ""),
        ([2.0] * 20, AFTER, "the last losses are 1.00 of the first"),
        (FALLING[::-1], AFTER, "the last losses are 2.57 of the first"),
        ([*FALLING[:9], math.nan, *FALLING[10:]], AFTER, "a loss is not finite"),
        ([*FALLING[:9], math.inf, *FALLING[10:]], AFTER, "a loss is not finite"),
        (FALLING, AFTER | {"up.bias": BEFORE["up.bias"]}, "up.bias did not change"),
        (FALLING, AFTER | {"up.bias": torch.tensor([math.nan])}, "up.bias is not finite"),
    ],
)
def test_verdicts(losses, after, problem):
    result = training.judge(losses, BEFORE, after, seconds=1.0)
    assert result.problem == problem
    row = training.describe(training.Job("m", "u", "float32", 20, Path()), result, "")
    assert row.verdict == (problem or "ok")


def test_means_are_those_of_the_first_and_last_tenth():
    assert training.judge(FALLING, {}, {}, 0)[:2] == pytest.approx((2.95, 1.15))


def test_a_run_that_fails_is_a_line_of_the_table():
    row = training.describe(training.Job("m", "u", "float32", 20, Path()), None, "KeyError: 'x'")
    assert (row.verdict, row.first_loss) == ("KeyError: 'x'", "")


def test_a_diverging_run_is_told_and_fails(shapes, tmp_path):
    """A learning rate that no model survives, through the tool's own main."""
    script = tmp_path / "diverge.py"
    script.write_text(
        "import sys\n"
        f"sys.path[:0] = [{str(ROOT)!r}, {str(TOOL.parent)!r}]\n"
        "import training\n"
        "make = training.make_config\n"
        "def too_fast(job, work_dir):\n"
        "    cfg = make(job, work_dir)\n"
        "    cfg.optim_wrapper.optimizer.lr = 1e6\n"
        "    return cfg\n"
        "training.make_config = too_fast\n"
        "sys.exit(training.run_tool(training.main))\n"
    )
    options = ("dysample", "--models", "segformer", "--precisions", "float32", "--iterations", "10")
    result = subprocess.run(
        [sys.executable, "-W", "ignore", script, *options, "--data", shapes],
        env=os.environ | ONE_THREAD,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1, result.stderr
    assert "0 of 1 runs are ok" in result.stdout
    assert "not finite" in result.stdout, result.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("dysampel",), ("dysampel", "dysample")),
        (("--data", "nowhere"), ("nowhere", "make_shapes.py")),
        (("--iterations", "3"), ("--iterations", "10", "3")),
        (("--workers", "0"), ("--workers", "1")),
        (("--models", "yolo"), ("yolo", "segformer")),
    ],
)
def test_mistakes_are_answered_in_a_sentence(arguments, named):
    result = call(*arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    for word in named:
        assert word in result.stderr


def test_csv_in_a_missing_folder(shapes, tmp_path):
    result = call("--data", shapes, "--csv", tmp_path / "no" / "table.csv")
    assert result.returncode == 2
    assert "--csv" in result.stderr and "does not exist" in result.stderr


def test_csv_that_is_a_folder(shapes, tmp_path):
    result = call("--data", shapes, "--csv", tmp_path)
    assert result.returncode == 2
    assert f"--csv {tmp_path} is a directory" in result.stderr
