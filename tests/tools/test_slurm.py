"""tools/slurm_train.sh and slurm_test.sh with a stand-in for srun."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.engine.zygote import ROOT, TEST, TRAIN

DEFAULTS = ["--gres=gpu:8", "--ntasks=8", "--ntasks-per-node=8", "--cpus-per-task=5"]


def call(script: str, *arguments: str, path: Path, **variables: str):
    environment = {**os.environ, "PYTHON": "py", **variables}
    environment["PATH"] = f"{path}{os.pathsep}/usr/bin{os.pathsep}/bin"
    return subprocess.run(
        ["bash", ROOT / "tools" / script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def srun(tmp_path) -> Path:
    """A directory with an srun that prints its arguments, one a line."""
    (tmp_path / "srun").write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    return tmp_path


def test_train(srun):
    run = call("slurm_train.sh", "gpu", "job 1", "c.py", "work dir", "--amp", path=srun)
    assert run.stdout.splitlines() == [
        *("-p", "gpu", "--job-name=job 1", *DEFAULTS, "--kill-on-bad-exit=1"),
        *("py", "-u", str(TRAIN), "c.py", "--launcher=slurm", "--work-dir", "work dir", "--amp"),
    ]


def test_train_without_work_dir(srun):
    """As mmseg's script is called."""
    run = call("slurm_train.sh", "gpu", "job", "c.py", "--resume", path=srun, GPUS="2")
    assert run.stdout.splitlines()[-4:] == [str(TRAIN), "c.py", "--launcher=slurm", "--resume"]
    # Fewer GPUs than a node has.
    assert run.stdout.splitlines()[3:6] == ["--gres=gpu:2", "--ntasks=2", "--ntasks-per-node=2"]


def test_test(srun):
    run = call("slurm_test.sh", "gpu", "job", "c.py", "c.pth", "--tta", path=srun)
    assert run.stdout.splitlines() == [
        *("-p", "gpu", "--job-name=job", *DEFAULTS, "--kill-on-bad-exit=1"),
        *("py", "-u", str(TEST), "c.py", "c.pth", "--launcher=slurm", "--tta"),
    ]


def test_settings(srun):
    run = call(
        *("slurm_train.sh", "gpu", "job", "c.py"),
        path=srun,
        **dict(GPUS="16", GPUS_PER_NODE="4", CPUS_PER_TASK="2", SRUN_ARGS="--quotatype=auto -x n1"),
    )
    lines = run.stdout.splitlines()
    assert lines[3:7] == [
        *("--gres=gpu:4", "--ntasks=16", "--ntasks-per-node=4", "--cpus-per-task=2")
    ]
    assert lines[8:11] == ["--quotatype=auto", "-x", "n1"]


@pytest.mark.parametrize("script", ["slurm_train.sh", "slurm_test.sh"])
def test_wrong_calls(script, srun):
    run = call(script, "gpu", "job", path=srun)
    assert run.returncode == 2
    assert run.stderr.startswith("error: usage: ")
    (srun / "srun").unlink()
    run = call(script, "gpu", "job", "c.py", "c.pth", path=srun)
    assert run.returncode == 2
    assert run.stderr.splitlines() == [
        "error: srun is not on PATH: this script runs on a slurm cluster"
    ]
