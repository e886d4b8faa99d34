from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmdysample.engine.launch import free_port, main

ROOT = Path(__file__).resolve().parents[2]


def test_free_port_is_the_wanted_one_if_it_is_free():
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    assert free_port(port) == port


def test_free_port_is_another_one_if_it_is_taken():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        found = free_port(port)
    assert found not in (port, 0)
    with socket.socket() as probe:
        probe.bind(("", found))


@pytest.mark.parametrize("status", [0, 2, 130])
def test_status_of_the_processes(status, tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text(f"import sys; sys.exit({status})")
    assert main(["--nproc_per_node=1", "--master_port=auto", str(script)]) == status
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_stays_torchruns(tmp_path):
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    script = tmp_path / "script.py"
    script.write_text("raise KeyError('bug')")
    with pytest.raises(ChildFailedError):
        main(["--nproc_per_node=1", "--master_port=auto", str(script)])


def test_interrupt(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import pathlib, sys, time\n"
        "pathlib.Path('started').touch()\n"
        "try:\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    sys.exit(130)\n"
    )
    call = [sys.executable, "-m", "mmdysample.engine.launch", "--master_port=auto", script]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        call,
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        end = time.time() + 60
        while not (tmp_path / "started").exists():
            assert time.time() < end
            time.sleep(0.05)
        # As a terminal does: to torchrun and its processes.
        os.killpg(process.pid, signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in errors
