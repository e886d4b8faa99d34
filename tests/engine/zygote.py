"""Runs the tools as a user calls them, without importing everything again for each call.

A helper process imports torch and mm packages once; each call forks it, sets arguments, directory,
environment and output, and runs the script as ``__main__``. The helper itself computes nothing,
so that nothing of one call reaches another.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import functools
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

LIMIT = 600.0
"""Seconds after which a call that does not end is ended; its stderr says where each thread was."""
ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "tools" / "train.py"
TEST = ROOT / "tools" / "test.py"
_MODULES = [
    *("mmdet.apis", "mmdet.datasets", "mmdet.models", "mmdet.evaluation", "mmdet.visualization"),
    *("mmseg.apis", "mmseg.datasets", "mmseg.models", "mmseg.evaluation", "mmseg.visualization"),
    *("mmdysample.mmdet", "mmdysample.mmseg"),
    *("mmdysample.engine.runner", "mmdysample.engine.families", "torch._dynamo"),
]


class Result(NamedTuple):
    status: int
    stdout: str
    stderr: str


class Zygote:
    """The helper process; close it when done."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def start(self, *arguments: object, cwd: Path, env: dict | None = None) -> int:
        """Start a call and return its process id."""
        order = dict(argv=[str(a) for a in arguments], cwd=str(cwd), env=env or {})
        return self._ask(order)["pid"]

    def wait(self, pid: int, limit: float = LIMIT) -> Result:
        """Wait for the end of a call, for ``limit`` seconds at most."""
        return Result(**self._ask(dict(wait=pid, limit=limit)))

    def run(self, *arguments: object, cwd: Path, env: dict | None = None) -> Result:
        """Call a script: ``run(TRAIN, 'config.py', '--amp', cwd=...)``."""
        return self.wait(self.start(*arguments, cwd=cwd, env=env))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _ask(self, order: dict) -> dict:
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the helper process has ended")
        return json.loads(line)


@functools.cache
def shared_zygote() -> Zygote:
    """The one that all tests of a session use; it ends with the session."""
    zygote = Zygote()
    atexit.register(zygote.close)
    return zygote


def _serve() -> None:
    import importlib

    for module in _MODULES:
        importlib.import_module(module)
    # mmengine collects garbage by hand: let it not go through all of these modules each time.
    gc.collect()
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    outputs: dict[int, tuple[str, str]] = {}
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            pid = order["wait"]
            status = _wait(pid, order["limit"])
            texts = [Path(path).read_text() for path in outputs[pid]]
            for path in outputs.pop(pid):
                os.unlink(path)
            answer = dict(status=status, stdout=texts[0], stderr=texts[1])
        else:
            files = [tempfile.mkstemp()[1] for _ in range(2)]
            pid = os.fork()
            if pid == 0:
                _become(order, files)
            outputs[pid] = (files[0], files[1])
            answer = dict(pid=pid)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _wait(pid: int, limit: float) -> int:
    """The exit status of a call, which ends in time or is ended with its worker processes."""
    start = time.monotonic()
    while time.monotonic() < start + limit:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(pid, signal.SIGUSR1)  # where is each thread?
    time.sleep(1)
    os.killpg(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _become(order: dict, files: list[str]) -> None:
    import runpy

    os.setsid()
    for descriptor, path in enumerate([os.devnull, *files]):
        mode = os.O_RDONLY if descriptor == 0 else os.O_WRONLY
        os.dup2(os.open(path, mode), descriptor)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    faulthandler.register(signal.SIGUSR1, sys.stderr)
    status = 1
    try:
        os.chdir(order["cwd"])
        os.environ.update(order["env"])
        sys.argv = order["argv"]
        sys.path[0] = os.path.dirname(sys.argv[0])
        sys.path[1:1] = filter(None, order["env"].get("PYTHONPATH", "").split(os.pathsep))
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve()
