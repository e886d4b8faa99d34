"""Calls in forked processes: each starts from the same state, and nothing is imported twice."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """What a call returned, or why it did not."""

    value: Any
    error: str
    """'' if it returned."""


def run_forked(
    call: Callable[[Any], Any], jobs: Sequence[Any], logs: Sequence[Path], workers: int
) -> Iterator[tuple[Any, Outcome]]:
    """Run ``call(job)`` for each job, ``workers`` at a time; what job i prints goes to ``logs[i]``.

    Yields:
        (job, outcome) as jobs end.
    """
    fork = multiprocessing.get_context("fork")
    waiting = list(zip(jobs, logs, strict=True))[::-1]
    running: dict[Connection, tuple[Any, multiprocessing.Process]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job, log = waiting.pop()
                reader, writer = fork.Pipe(duplex=False)
                process = fork.Process(target=_child, args=(call, job, log, writer))
                process.start()
                writer.close()  # now the reader sees the end when the child dies
                running[reader] = (job, process)
            for reader in wait(list(running)):
                job, process = running.pop(reader)
                try:
                    outcome = reader.recv()
                    process.join()
                except EOFError:
                    process.join()
                    outcome = Outcome(None, f"ended without a result, status {process.exitcode}")
                yield job, outcome
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()


def _child(call: Callable[[Any], Any], job: Any, log: Path, writer: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its children
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            try:
                outcome = Outcome(call(job), "")
            except SystemExit as end:
                outcome = Outcome(None, f"exit status {end.code}")
            except Exception as error:
                traceback.print_exc(file=file)
                lines = str(error).strip().splitlines() or [""]
                outcome = Outcome(None, f"{type(error).__name__}: {lines[0]}")
    writer.send(outcome)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the end of the process
