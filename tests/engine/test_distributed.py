"""Launchers, processes that end with theirs, and the end of a process group."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

from mmengine.config import Config

from mmdysample.engine.distributed import (
    check_launcher,
    end_threads_of_gloo,
    end_with_launcher,
    is_first_process,
    start_on_cpu,
)
from mmdysample.errors import UserError


def rank_of_a_launcher(**environment: str) -> tuple[int, int]:
    """A process that is a launcher, with a child that watches it.

    Returns the launcher's id, and a descriptor at whose end the child has ended.
    """
    reader, writer = os.pipe()
    launcher = os.fork()
    if launcher == 0:
        os.setpgid(0, 0)
        if os.fork() == 0:
            os.environ.update(environment)
            end_with_launcher(seconds=0.01)
            os.write(writer, b".")
        else:
            os.close(writer)
        time.sleep(60)
        os._exit(0)
    os.close(writer)
    assert os.read(reader, 1) == b"."
    return launcher, reader


def has_ended(reader: int, seconds: float) -> bool:
    ready, _, _ = select.select([reader], [], [], seconds)
    return bool(ready)


@pytest.mark.parametrize(
    ("launcher", "rank"),
    [("pytorch", "RANK"), ("slurm", "SLURM_PROCID"), ("mpi", "OMPI_COMM_WORLD_RANK")],
)
def test_what_a_launcher_says(monkeypatch, launcher, rank):
    """Each by its own variable; without a launcher a process is the first."""
    for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.setenv(name, "0")
    assert is_first_process(launcher)
    monkeypatch.setenv(rank, "1")
    assert not is_first_process(launcher) and is_first_process("none")


@pytest.mark.parametrize(
    ("launcher", "needs"),
    [
        ("pytorch", "torchrun (tools/dist_*.sh): RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT not"),
        ("slurm", "srun (tools/slurm_*.sh): SLURM_PROCID, SLURM_NTASKS, SLURM_NODELIST not"),
        ("mpi", "mpirun with MASTER_ADDR exported: OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE, "),
    ],
)
def test_without_its_launcher(monkeypatch, launcher, needs):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "MASTER_"))]:
        monkeypatch.delenv(name)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    check_launcher("none")
    with pytest.raises(UserError) as error:
        check_launcher(launcher)
    assert f"--launcher {launcher} needs to be started by {needs}" in str(error.value)


@pytest.mark.parametrize("launcher", ["slurm", "mpi"])
def test_launchers_that_need_a_gpu(launcher):
    with pytest.raises(UserError, match=f"--launcher {launcher} needs a GPU"):
        start_on_cpu(Config(dict(launcher=launcher, env_cfg=dict(dist_cfg=dict()))))


@pytest.mark.parametrize("rank", ["0", "1"])
def test_rank_ends_with_a_killed_launcher(capfd, rank):
    environment = dict(TORCHELASTIC_RUN_ID="none", RANK=rank)
    launcher, reader = rank_of_a_launcher(**environment)
    assert not has_ended(reader, 0.1)
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    assert has_ended(reader, 30)
    os.close(reader)
    lines = capfd.readouterr().err.splitlines()
    sentence = "error: the launcher was ended, and this run with it; --resume continues training"
    assert lines == ([sentence] if rank == "0" else [])


def test_a_process_that_torchrun_did_not_start_stays():
    """Such as one in the background of a shell that is closed."""
    launcher, reader = rank_of_a_launcher()
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    assert not has_ended(reader, 0.2)
    os.killpg(launcher, signal.SIGKILL)
    assert has_ended(reader, 30)
    os.close(reader)


SCRIPT = """
import contextlib, importlib, pathlib, sys, time
from torch import distributed, nn
from mmdysample.engine.distributed import leave_process_group

# As in every run. Imported by DDP itself, when the group is there, it would hold it.
importlib.import_module("torch._dynamo")

def has_threads():
    for path in pathlib.Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # it has ended since
            if "gloo" in path.read_text():
                return True
    return False

distributed.init_process_group("gloo", init_method=sys.argv[1], rank=0, world_size=1)
model = nn.parallel.DistributedDataParallel(nn.Linear(2, 2))
model.itself = [model]
assert has_threads()
del model
leave_process_group()
# The system lists a thread for a moment after it has ended.
end = time.monotonic() + 10
while has_threads() and time.monotonic() < end:
    time.sleep(0.01)
assert not has_threads()
leave_process_group()
"""


@pytest.mark.slow
def test_no_thread_of_a_process_group_is_left(tmp_path):
    """Also if a wrapped model that refers to itself still holds the group."""
    (tmp_path / "script.py").write_text(SCRIPT)
    call = [sys.executable, tmp_path / "script.py", f"file://{tmp_path / 'store'}"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_threads_get_the_interpreter_before_a_group_is_deleted():
    """Else a thread of gloo that needs it to let go of a tensor, and this one, wait for ever."""
    events: list[str] = []
    done = threading.Lock()
    done.acquire()

    def let_go() -> None:
        with done:
            events.append("a thread has let go of its tensor")

    def collecting(phase: str, info: dict) -> None:
        events.append(f"collection: {phase}")

    thread = threading.Thread(target=let_go)
    thread.start()
    interval = sys.getswitchinterval()
    gc.disable()
    gc.callbacks.append(collecting)
    try:
        sys.setswitchinterval(100)
        done.release()
        end_threads_of_gloo()
    finally:
        sys.setswitchinterval(interval)
        gc.enable()
        gc.callbacks.remove(collecting)
        thread.join()
    assert events[0] == "a thread has let go of its tensor"
    assert events[-1] == "collection: stop"
