"""Loads hostile files in child processes and tells what became of each.

    witness.py JOB.json

The job is a list of cases: a checkpoint to be loaded (``{"load": PATH}``) or resumed from for two
iterations (``{"resume": [CONFIG, PATH]}``), a call of a tool (``{"argv": [...], "cwd": DIR}``)
or of ``open_inferencer`` (``{"infer": [CONFIG, PATH]}``).
``JOB.json.results`` has for each case "loaded", the sentence of its refusal, or what went wrong:
"died ...", "crashed ...", "acted ...".

Cases that are not calls share a process to save time: one that dies is laid to the case that it was
at.
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
from pathlib import Path

from mmdysample.errors import UserError

CANARY = "CANARY"
MEMORY = 2 << 30
SECONDS = 20
ACTS: list[str] = []


def watch(event: str, arguments: tuple) -> None:
    # Payloads of the cases name the canary: a program, path or command with its name acts.
    if event.startswith(("pickle.find_class", "ctypes.")) or CANARY in str(arguments[:2]):
        ACTS.append(f"{event} {arguments[:2]}")


def load(path: str) -> None:
    from mmdysample.engine.checkpoint import load_checkpoint_file

    loaded = load_checkpoint_file(path)
    # Every byte is looked at: what points nowhere is found out.
    repr(copy.deepcopy(loaded))
    pickle.dumps(loaded)


@functools.cache
def runner_of(config: str):
    """Made before the children are."""
    from tests.engine.tiny import ready_runner

    return ready_runner(Path(config), Path(config).with_name("work_dir"))


def resume(arguments: list[str]) -> None:
    """A run is put where a checkpoint was, and does what runs do in an iteration."""
    config, checkpoint = arguments
    runner = runner_of(config)
    runner.resume(checkpoint)
    # Only in memory: hooks, which write, are left out.
    for batch in itertools.islice(runner.train_dataloader, 2):
        for name, value in runner.model.train_step(batch, runner.optim_wrapper).items():
            runner.message_hub.update_scalar(f"train/{name}", value)
        for scheduler in runner.param_schedulers:
            scheduler.step()
    for scalar in runner.message_hub.log_scalars.values():
        scalar.current(), scalar.mean(), scalar.min(), scalar.max()


def infer(arguments: list[str]) -> None:
    from mmdysample.inference import open_inferencer

    open_inferencer(*arguments, "cpu")


def call(argv: list[str]) -> None:
    sys.argv = argv
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        sys.stderr.flush()
        if end.code == 2:
            raise UserError(Path("errors").read_text().strip().splitlines()[-1]) from end
        if end.code:
            raise RuntimeError(f"status {end.code}: {Path('errors').read_text()[-3000:]}") from end


KINDS = dict(load=load, resume=resume, argv=call, infer=infer)


def tell(case: dict) -> str:
    """What becomes of a case in this process."""
    ACTS.clear()
    if "cwd" in case:
        os.chdir(case["cwd"])
        for descriptor, name in ((1, "output"), (2, "errors")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
    (kind,) = case.keys() - {"cwd"}
    outcome = "loaded"
    try:
        KINDS[kind](case[kind])
    except UserError as error:
        outcome = str(error)
    except BaseException:
        outcome = f"crashed {traceback.format_exc()}"
    return f"acted {ACTS}" if ACTS else outcome


def in_children(cases: list[dict]) -> list[str]:
    outcomes: list[str] = []
    while len(outcomes) < len(cases):
        rest = cases[len(outcomes) :]
        rest = rest[:1] if "cwd" in rest[0] else rest[:50]
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            sys.addaudithook(watch)
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
    for config in {case["resume"][0] for case in cases if "resume" in case}:
        runner_of(config)
    job.with_name(job.name + ".results").write_text(json.dumps(in_children(cases)))
