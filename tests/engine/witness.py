"""Runs hostile files in child processes and tells what became of each.

    witness.py JOB.json

The job is a list of cases: a checkpoint to be loaded (``{"load": PATH}``) or resumed from for two
iterations (``{"resume": [CONFIG, PATH]}``), a call of a tool (``{"argv": [...], "cwd": DIR}``)
or of ``open_inferencer`` (``{"infer": [CONFIG, PATH]}``).
``JOB.json.results`` has for each case "loaded", the sentence of its refusal, or what went wrong:
"died ...", "crashed ...", "acted ...".

Cases share a process to save time, each announced before it starts: a process that dies is laid to
the case that it was at.
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
import os
import pickle
import resource
import runpy
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from mmdysample.errors import UserError

CANARY = "CANARY"
MEMORY = 2 << 30
SECONDS = 20


def tell(case: dict) -> str:
    """What becomes of a case in this process."""
    acts: list[str] = []

    def watch(event: str, arguments: tuple) -> None:
        # Payloads of the cases name the canary: a program, path or command with its name acts.
        if event.startswith(("pickle.find_class", "ctypes.")) or CANARY in str(arguments[:2]):
            acts.append(f"{event} {arguments[:2]}")

    sys.addaudithook(lambda *event: _WATCH and _WATCH[-1](*event))
    _WATCH.append(watch)
    try:
        (kind,) = case.keys() - {"cwd"}
        outcome = dict(load=_load, resume=_resume, argv=_call, infer=_infer)[kind](**case)
    except BaseException:
        outcome = f"crashed {traceback.format_exc()}"
    _WATCH.clear()
    return f"acted {acts}" if acts else outcome


_WATCH: list[Callable] = []


def _load(load: str) -> str:
    from mmdysample.engine.checkpoint import CheckpointError, load_checkpoint_file

    try:
        loaded = load_checkpoint_file(load)
    except CheckpointError as error:
        return str(error)
    # Every byte is looked at: what points nowhere is found out.
    repr(copy.deepcopy(loaded))
    pickle.dumps(loaded)
    return "loaded"


@functools.cache
def _runner(config: str):
    """Made before the children are, each of which gets it as it was."""
    from tests.engine.tiny import ready_runner

    return ready_runner(Path(config), Path(config).with_name("work_dir"))


def _resume(resume: list[str]) -> str:
    """A run is put where a checkpoint was, and does what runs do in an iteration."""
    config, checkpoint = resume
    runner = _runner(config)
    try:
        runner.resume(checkpoint)
    except UserError as error:
        return str(error)
    # Only in memory: hooks, which write, are left out.
    for batch in itertools.islice(runner.train_dataloader, 2):
        for name, value in runner.model.train_step(batch, runner.optim_wrapper).items():
            runner.message_hub.update_scalar(f"train/{name}", value)
        for scheduler in runner.param_schedulers:
            scheduler.step()
    for scalar in runner.message_hub.log_scalars.values():
        scalar.current(), scalar.mean(), scalar.min(), scalar.max()
    return "loaded"


def _infer(infer: list[str]) -> str:
    from mmdysample.inference import open_inferencer

    try:
        open_inferencer(*infer, "cpu")
    except UserError as error:
        return f"error: {error}"
    return "loaded"


def _call(argv: list[str], cwd: str) -> str:
    os.chdir(cwd)
    for descriptor, name in ((1, "output"), (2, "errors")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
    sys.argv = argv
    status: object = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        status = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    if not status:
        return "loaded"
    lines = Path("errors").read_text().strip().splitlines()
    return lines[-1] if status == 2 else f"crashed status {status}, {lines[-30:]}"


def in_children(cases: list[dict], batch: int) -> list[str]:
    outcomes: list[str] = []
    while len(outcomes) < len(cases):
        rest = cases[len(outcomes) :][:batch]
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            for case in rest:
                signal.setitimer(signal.ITIMER_PROF, SECONDS)
                os.write(writing, (json.dumps(tell(case)) + "\n").encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as told:
            done = [json.loads(line) for line in told]
        status = os.waitpid(child, 0)[1]
        outcomes += done
        if len(done) < len(rest):
            outcomes.append(f"died {status}")
    return outcomes


if __name__ == "__main__":
    job = Path(sys.argv[1])
    cases = json.loads(job.read_text())
    if "resume" in cases[0]:
        _runner(cases[0]["resume"][0])
    results = in_children(cases, batch=50 if "load" in cases[0] else 1)
    job.with_name(job.name + ".results").write_text(json.dumps(results))
