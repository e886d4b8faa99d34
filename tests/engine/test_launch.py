from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmdysample.engine import launch
from mmdysample.engine.launch import main

ROOT = Path(__file__).resolve().parents[2]
FREE_PORT = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=127.0.0.1"]


@pytest.mark.parametrize("status", [0, 2, 130])
def test_status_of_the_processes(status, tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text(f"import sys; sys.exit({status})")
    assert main(["--nproc-per-node=1", *FREE_PORT, str(script)]) == status
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_stays_torchruns(tmp_path, capsys):
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    script = tmp_path / "script.py"
    script.write_text("raise KeyError('bug')")
    with pytest.raises(ChildFailedError):
        main(["--command=2", "bash", "x.sh", "--nproc-per-node=1", *FREE_PORT, str(script)])
    assert "to continue" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("statuses", "killed"),
    [
        ({0: -15, 1: -9}, {1: 9}),
        ({0: 1, 1: -9}, {1: 9}),
        ({0: 1, 1: -15}, {}),
        ({1: -15}, {1: 15}),
        ({0: 1}, {}),
    ],
)
def test_which_processes_were_killed(statuses, killed):
    """torchrun itself ends the others by SIGTERM."""
    assert launch._killed(statuses) == killed


def test_killed_process_is_named_with_the_way_to_continue(tmp_path, capfd):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, time\n"
        "time.sleep(60) if os.environ['RANK'] == '0' else os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = ["bash", "tools/dist_train.sh", "my config.py", "2", "--work-dir", "a\nb"]
    arguments = ["--nproc-per-node=2", *FREE_PORT, str(script)]
    assert main([f"--command={len(command)}", *command, *arguments]) == 1
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    killed, again = errors.rsplit("\n", 4)[-4:-3], errors.rpartition("to continue: ")[2]
    assert killed == ["error: process 1 of the run was ended by SIGKILL"]
    assert shlex.split(again) == [*command, "--resume"]


def start(tmp_path: Path, text: str, processes: int) -> subprocess.Popen:
    script = tmp_path / "script.py"
    script.write_text(text)
    call = [sys.executable, "-m", "mmdysample.engine.launch", f"--nproc-per-node={processes}"]
    process = subprocess.Popen(
        [*call, *FREE_PORT, script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.time() + 120
    while len(list(tmp_path.glob("started*"))) < processes:
        assert time.time() < end
        time.sleep(0.05)
    return process


def test_interrupt(tmp_path):
    text = (
        "import pathlib, sys, time\n"
        "pathlib.Path('started').touch()\n"
        "try:\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    sys.exit(130)\n"
    )
    with start(tmp_path, text, 1) as process:
        # As a terminal does: to torchrun and its processes.
        os.killpg(process.pid, signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "to continue" not in errors


def test_processes_of_a_killed_launcher_end(tmp_path):
    """torchrun gives each a session of its own, which no signal to the launcher reaches."""
    pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")
    text = (
        "import os, pathlib, time\n"
        "from mmdysample.engine.distributed import end_with_launcher\n"
        "end_with_launcher()\n"
        "pathlib.Path('started' + os.environ['RANK']).touch()\n"
        "time.sleep(60)\n"
    )
    with start(tmp_path, text, 2) as process:
        process.kill()
        # Its standard error, which the two have inherited, ends when they do.
        errors = process.communicate(timeout=30)[1]
    assert errors.splitlines()[-1:] == [
        "error: the launcher was ended, and this run with it; --resume continues training"
    ]
