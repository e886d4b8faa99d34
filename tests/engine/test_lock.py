"""Two training runs in one work dir: the second is told, the first does not notice."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

from mmdysample.engine.errors import UserError
from mmdysample.engine.lock import only_run_in
from tests.engine.tiny import write_tiny_config
from tests.engine.zygote import TRAIN


@contextlib.contextmanager
def other_run(work_dir: Path, workers: int = 0) -> Iterator[int]:
    """Another process that trains there, with processes of its own that outlive it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        with only_run_in(str(work_dir)):
            for _ in range(workers):
                if os.fork() == 0:
                    break
            os.write(writer, b".")
            time.sleep(60)
        os._exit(0)
    try:
        assert os.read(reader, 1) == b"."
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def contents(directory: Path) -> dict[str, bytes | None]:
    return {
        str(path): path.read_bytes() if path.is_file() else None for path in directory.rglob("*")
    }


def test_second_run_is_refused(zygote, tmp_path):
    """It changes nothing of the first one's: neither its config nor its checkpoints."""
    config = write_tiny_config(tmp_path / "config.py")
    assert zygote.run(TRAIN, config, "--work-dir", "w", cwd=tmp_path).status == 0
    (tmp_path / "w" / "epoch_3.pth.tmp").write_bytes(b"the first run is writing this")
    write_tiny_config(config, randomness=dict(seed=2))
    before = contents(tmp_path)
    with other_run(tmp_path / "w"):
        run = zygote.run(TRAIN, config, "--work-dir", "w", "--resume", cwd=tmp_path)
    assert contents(tmp_path) == before
    assert run.status == 2, run.stderr
    assert run.stderr == (
        "error: another training is running in work dir w: wait until it has ended, or choose "
        "another --work-dir\n"
    )
    assert zygote.run(TRAIN, config, "--work-dir", "w", "--resume", cwd=tmp_path).status == 0


def test_lock_ends_with_a_killed_run(tmp_path):
    """At once, though a worker of its data loader is still there."""
    (tmp_path / "another").mkdir()
    with other_run(tmp_path, workers=1) as pid:
        with only_run_in(str(tmp_path / "another")):
            pass
        with pytest.raises(UserError), only_run_in(str(tmp_path)):
            pass
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with only_run_in(str(tmp_path)):
            pass


def test_file_system_without_locks(tmp_path, monkeypatch):
    import errno
    import fcntl

    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", fail)
    with only_run_in(str(tmp_path)):
        pass
