"""tools/analysis/forked.py: what calls return, print and how they die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.analysis.forked import run_forked


def outcomes(call, jobs, tmp_path, workers=2):
    logs = [tmp_path / f"{i}.log" for i in range(len(jobs))]
    return dict(run_forked(call, jobs, logs, workers))


def test_results_come_back_from_processes_of_their_own(tmp_path):
    results = outcomes(lambda job: (job * job, os.getpid()), [1, 2, 3, 4, 5], tmp_path)
    assert {job: outcome.value[0] for job, outcome in results.items()} == {
        job: job**2 for job in range(1, 6)
    }
    assert len({outcome.value[1] for outcome in results.values()} | {os.getpid()}) == 6


def test_at_most_workers_run_at_a_time(tmp_path):
    def call(job):
        start = time.monotonic()
        time.sleep(0.1)
        return start, time.monotonic()

    spans = [outcome.value for outcome in outcomes(call, range(6), tmp_path).values()]
    for moment, _ in spans:
        assert sum(start <= moment < end for start, end in spans) <= 2


def fail(job):
    print(f"job {job} prints")
    os.system(f"echo job {job} echoes")
    if job == "raise":
        raise KeyError("it")
    if job == "exit":
        sys.exit(3)
    if job == "die":
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("job", "error"),
    [
        ("raise", "KeyError: 'it'"),
        ("exit", "exit status 3"),
        ("die", "ended without a result, status -9"),
    ],
)
def test_failures_are_told_and_logged(job, error, tmp_path):
    results = outcomes(fail, [job, "well"], tmp_path)
    assert results[job].error == error
    assert results["well"].error == ""
    log = (tmp_path / "0.log").read_text()
    assert f"job {job} echoes" in log
    assert ("Traceback" in log) == (job == "raise")


def test_a_killed_parent_leaves_no_children(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, time, pathlib, os\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from tools.analysis.forked import run_forked\n"
        "def call(job):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        f"list(run_forked(call, [0, 1], [pathlib.Path({str(tmp_path)!r}, f'{{i}}.log') "
        "for i in range(2)], 2))\n"
    )
    parent = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL)
    logs = [tmp_path / f"{i}.log" for i in range(2)]
    deadline = time.monotonic() + 20
    while not all(log.exists() and log.read_text().strip() for log in logs):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = [int(log.read_text()) for log in logs]
    parent.send_signal(signal.SIGINT)
    assert parent.wait(20) != 0
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
