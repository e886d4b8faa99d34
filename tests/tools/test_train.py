"""tools/train.py as a user calls it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.config import Config

from mmdysample.engine.checkpoint import load_checkpoint_file
from tests.engine.toy import write_config
from tests.engine.zygote import ROOT, TEST, TRAIN

ONE_ITERATION = ("train_cfg.max_iters=1", "default_hooks.checkpoint.interval=1")


@pytest.fixture
def segmentor(tmp_path, toy_data) -> Path:
    return write_config("segmentor", toy_data, tmp_path / "segmentor.py")


@pytest.fixture
def detector(tmp_path, toy_data) -> Path:
    return write_config("detector", toy_data, tmp_path / "detector.py")


def logged(work_dir: Path) -> list[dict]:
    """The scalars that a run logged."""
    (log,) = work_dir.glob("*/vis_data/scalars.json")
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.slow
def test_default_work_dir_and_plain_call(segmentor, tmp_path):
    """A process of its own, from another directory; the model has SyncBN."""
    call = [sys.executable, TRAIN, segmentor, "--cfg-options", *ONE_ITERATION]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    work_dir = tmp_path / "work_dirs" / "segmentor"
    assert (work_dir / "iter_1.pth").exists()
    assert (work_dir / "segmentor.py").exists()
    assert (work_dir / "last_checkpoint").read_text() == str(work_dir / "iter_1.pth")
    assert len(logged(work_dir)) == 1
    assert "SyncBatchNorm (SyncBN) layers in the model will be automatically reverted" in run.stdout


def test_a_work_dir_among_the_data(toy_data, zygote, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(toy_data, data)
    (tmp_path / "link").symlink_to(data)
    config = write_config("segmentor", data, tmp_path / "config.py")
    before = sorted(tmp_path.rglob("*"))
    work_dir = "link/images/new"
    options = ("--work-dir", work_dir, "--cfg-options", *ONE_ITERATION)
    run = zygote.run(TRAIN, config, *options, cwd=tmp_path)
    assert run.status == 2
    assert run.stderr.startswith(f"error: work dir {work_dir}: ") and run.stderr.count("\n") == 1
    assert "holds data of the config" in run.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_saved_config_is_the_users(segmentor, zygote, tmp_path):
    """What the tools put around data sets and hooks does not get into the config that is kept."""
    run = zygote.run(
        TRAIN, segmentor, "--work-dir", "w", "--cfg-options", *ONE_ITERATION, cwd=tmp_path
    )
    assert run.status == 0, run.stderr
    saved = Config.fromfile(tmp_path / "w" / "segmentor.py")
    assert saved.train_dataloader.dataset.type == "BaseSegDataset"
    assert saved.train_dataloader.sampler.type == "InfiniteSampler"
    assert saved.default_hooks.checkpoint.type == "CheckpointHook"


def test_cfg_options_and_auto_scale_lr(detector, zygote, tmp_path):
    run = zygote.run(
        *(TRAIN, detector, "--work-dir", "w", "--auto-scale-lr", "--cfg-options"),
        *("train_cfg.max_epochs=1", "optim_wrapper.optimizer.lr=0.002", "param_scheduler=None"),
        cwd=tmp_path,
    )
    assert run.status == 0, run.stderr
    # Batches of 2 where the config's rate is meant for 4.
    assert {entry["lr"] for entry in logged(tmp_path / "w")} == {0.001}


def test_amp(segmentor, zygote, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("mixed precision needs a CUDA GPU")
    run = zygote.run(
        TRAIN, segmentor, "--work-dir", "w", "--amp", "--cfg-options", *ONE_ITERATION, cwd=tmp_path
    )
    assert run.status == 0, run.stderr
    assert "loss_scaler" in load_checkpoint_file(tmp_path / "w" / "iter_1.pth")["optimizer"]


def test_validation_and_best_checkpoint(segmentor, zygote, tmp_path):
    """The best checkpoint replaces the one before it, and survives as many as there are."""
    run = zygote.run(
        *(TRAIN, segmentor, "--work-dir", "w", "--cfg-options"),
        *("train_cfg.val_begin=1", "train_cfg.val_interval=2", "train_cfg.max_iters=6"),
        *("default_hooks.checkpoint.save_best=aAcc", "optim_wrapper.optimizer.lr=0.01"),
        cwd=tmp_path,
    )
    assert run.status == 0, run.stderr
    scores = {entry["step"]: entry["aAcc"] for entry in logged(tmp_path / "w") if "aAcc" in entry}
    assert list(scores) == [2, 4, 6]
    best = max(scores, key=scores.get)
    saved = sorted(path.name for path in (tmp_path / "w").glob("*.pth*"))
    assert saved == [f"best_aAcc_iter_{best}.pth", "iter_6.pth"]


def test_interrupt_says_how_to_continue(segmentor, zygote, tmp_path):
    options = ("--work-dir", "w", "--cfg-options", "train_cfg.max_iters=10000")
    pid = zygote.start(TRAIN, segmentor, *options, cwd=tmp_path)
    wait_for(tmp_path / "w", "last_checkpoint")
    # As a terminal does: to the run and its workers.
    os.killpg(pid, signal.SIGINT)
    run = zygote.wait(pid)
    assert run.status == 130, run.stderr
    # A worker of the data loader may have a word after that.
    before, said, _ = run.stderr.partition("interrupted\n")
    assert said and before.endswith("to continue: the same command with --resume\n\n")
    assert "Traceback" not in before


def test_interrupt_before_a_checkpoint(segmentor, zygote, tmp_path):
    """There is nothing to continue."""
    options = ("train_cfg.max_iters=10000", "default_hooks.checkpoint.interval=10000")
    pid = zygote.start(
        *(TRAIN, segmentor, "--work-dir", "w", "--cfg-options", *options), cwd=tmp_path
    )
    wait_for(tmp_path / "w", "*/vis_data/scalars.json")
    os.killpg(pid, signal.SIGINT)
    run = zygote.wait(pid)
    assert run.status == 130, run.stderr
    # A worker of the data loader may have a word after that.
    assert "interrupted" in run.stderr.splitlines()
    assert "to continue" not in run.stderr


def test_checkpoints_of_an_earlier_run_are_kept(segmentor, zygote, tmp_path):
    (tmp_path / "w").mkdir()
    earlier = tmp_path / "w" / "iter_9000.pth"
    earlier.write_bytes(b"another run's")
    run = zygote.run(TRAIN, segmentor, "--work-dir", "w", cwd=tmp_path)
    assert run.status == 2
    assert "w holds iter_9000.pth of an earlier run: --resume continues that run" in run.stderr
    assert earlier.read_bytes() == b"another run's"
    assert [path.name for path in (tmp_path / "w").iterdir() if path.suffix == ".pth"] == [
        "iter_9000.pth"
    ]


@pytest.mark.parametrize("tool", [TRAIN, TEST], ids=["train", "test"])
def test_the_copy_of_a_config_does_not_replace_it(tool, segmentor, zygote, tmp_path):
    config = tmp_path / "mine.py"
    config.write_text(f"# a comment\n_base_ = {str(segmentor)!r}\n")
    before = config.read_text()
    checkpoint = [tmp_path / "any.pth"] if tool == TEST else []
    torch.save({}, tmp_path / "any.pth")
    run = zygote.run(tool, config, *checkpoint, "--work-dir", ".", cwd=tmp_path)
    assert run.status == 2
    assert "is the directory of the config" in run.stderr
    assert config.read_text() == before


def wait_for(directory: Path, pattern: str, seconds: float = 60) -> None:
    end = time.time() + seconds
    while not list(directory.glob(pattern)):
        assert time.time() < end, f"no {pattern} has appeared in {directory}"
        time.sleep(0.02)


def test_full_disk_keeps_the_checkpoint_before(segmentor, zygote, tmp_path):
    """A limit on the size of files fails a write just as a full disk does."""
    first = zygote.run(
        *(TRAIN, segmentor, "--work-dir", "w", "--cfg-options"),
        *("train_cfg.max_iters=2", "default_hooks.checkpoint.interval=2"),
        cwd=tmp_path,
    )
    assert first.status == 0, first.stderr
    checkpoint = tmp_path / "w" / "iter_2.pth"
    before = checkpoint.read_bytes()
    limit = len(before) // 2
    assert limit > 100_000
    code = (
        "import resource, runpy, sys; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    script = tmp_path / "limited.py"
    script.write_text(code)
    second = zygote.run(
        *(script, TRAIN, segmentor, "--work-dir", "w", "--resume", "--cfg-options"),
        *("train_cfg.max_iters=4", "default_hooks.checkpoint.interval=2"),
        cwd=tmp_path,
    )
    assert second.status == 2, second.stderr
    assert "Traceback" not in second.stderr
    (line,) = [line for line in second.stderr.splitlines() if line.startswith("error: ")]
    assert "no space left" in line and "iter_4.pth" in line
    assert "to continue: the same command with --resume" in second.stderr
    assert checkpoint.read_bytes() == before
    assert [path.name for path in (tmp_path / "w").glob("*.pth*")] == ["iter_2.pth"]
    assert (tmp_path / "w" / "last_checkpoint").read_text() == str(checkpoint)


def test_bugs_show_their_traceback(segmentor, zygote, tmp_path):
    bug = '\ncustom_imports["imports"].append("bug")\ncustom_hooks = [dict(type="mmengine.Bug")]\n'
    segmentor.write_text(segmentor.read_text() + bug)
    (tmp_path / "bug.py").write_text(
        "from mmengine.hooks import Hook\n"
        "from mmengine.registry import HOOKS\n"
        "@HOOKS.register_module()\n"
        "class Bug(Hook):\n"
        "    def before_train(self, runner):\n"
        "        return {}[0]\n"
    )
    run = zygote.run(TRAIN, segmentor, cwd=tmp_path, env=dict(PYTHONPATH=str(tmp_path)))
    assert run.status == 1
    assert "Traceback" in run.stderr
    assert "KeyError: 0" in run.stderr
    last = run.stderr.splitlines()[-1]
    assert last.startswith("error: a bug or an unforeseen failure while training ")


def test_from_an_installed_copy(segmentor, zygote, tmp_path):
    """Copied elsewhere, as a wheel does, the tools need nothing beside them."""
    tools = tmp_path / "site" / ".mim" / "tools"
    tools.mkdir(parents=True)
    shutil.copy(TRAIN, tools)
    run = zygote.run(
        *(tools / "train.py", segmentor, "--work-dir", "w", "--cfg-options", *ONE_ITERATION),
        cwd=tmp_path,
    )
    assert run.status == 0, run.stderr
    assert (tmp_path / "w" / "iter_1.pth").exists()
