"""tools/test.sh, tools/demo.sh and .ci/run, between stand-ins that note how they are called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Clone:
    """A project of the scripts alone, in which everything that they call is a stand-in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("tools/test.sh", "tools/demo.sh", ".ci/run"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
        for name in ("tools/setup_env.sh", ".venv/bin/ruff", ".venv/bin/python"):
            self.add_stand_in(name)
        self.add_stand_in(".venv/bin/shellcheck")

    def add_stand_in(self, name: str, status: int = 0) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\necho {path.name} "$@" >>"{self.root}/calls"\nexit {status}\n')
        path.chmod(0o755)

    def run(self, script: str, *arguments: str) -> tuple[int, str, list[str]]:
        """Exit status, standard output, and what the script called."""
        result = subprocess.run(
            ["bash", self.root / script, *arguments],
            env={"PATH": os.environ["PATH"]},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
        )
        calls = self.root / "calls"
        return (
            result.returncode,
            result.stdout,
            calls.read_text().splitlines() if calls.exists() else [],
        )


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path / "a clone")


FORM = ["setup_env.sh", "ruff check .", "ruff format --check ."]


@pytest.mark.parametrize(
    ("script", "arguments", "pytest_call"),
    [
        ("tools/test.sh", ["tests/ops", "-k", "a b"], "python -m pytest tests/ops -k a b"),
        ("tools/test.sh", ["--fast", "tests/ops"], "python -m pytest -m not slow tests/ops"),
        (
            "tools/test.sh",
            ["--fast"],
            "-m not slow -n logical --maxprocesses 4 --dist loadfile --durations=15",
        ),
        (
            "tools/test.sh",
            ["--randomly-seed=7"],
            "python -m pytest -n logical --maxprocesses 4 --dist loadfile --durations=15 "
            "--randomly-seed=7",
        ),
        (
            "tools/test.sh",
            ["--randomly-seed=7", "tests/ops"],
            "python -m pytest --randomly-seed=7 tests/ops",
        ),
        (".ci/run", [], "--durations=15"),
    ],
    ids=["arguments", "fast-arguments", "fast", "all-in-order", "arguments-in-order", "all"],
)
def test_sets_up_checks_the_form_and_runs_the_tests(
    clone: Clone, script: str, arguments: list[str], pytest_call: str
) -> None:
    status, output, calls = clone.run(script, *arguments)
    assert status == 0
    assert calls[:3] == FORM
    assert calls[3].startswith("shellcheck -x tools/demo.sh tools/setup_env.sh tools/test.sh")
    assert calls[4].startswith("python -m pytest") and calls[4].endswith(pytest_call)
    assert "All checks passed" in output


@pytest.mark.parametrize(
    ("name", "calls"),
    [("tools/setup_env.sh", 1), (".venv/bin/ruff", 2), (".venv/bin/shellcheck", 4)],
)
def test_stops_at_what_fails(clone: Clone, name: str, calls: int) -> None:
    clone.add_stand_in(name, status=3)
    status, output, called = clone.run("tools/test.sh")
    assert (status, len(called)) == (3, calls)
    assert "All checks passed" not in output


def test_fails_when_a_test_fails(clone: Clone) -> None:
    clone.add_stand_in(".venv/bin/python", status=1)
    for script in ("tools/test.sh", ".ci/run"):
        status, output, _ = clone.run(script)
        assert status == 1
        assert "All checks passed" not in output


def test_the_demo_sets_up_first(clone: Clone) -> None:
    clone.add_stand_in(".venv/bin/python", status=7)
    status, _, calls = clone.run("tools/demo.sh", "--work-dir", "a b")
    assert calls == ["setup_env.sh", f"python {clone.root}/tools/demo.py --work-dir a b"]
    assert status == 7


def test_the_demo_stops_when_the_set_up_fails(clone: Clone) -> None:
    clone.add_stand_in("tools/setup_env.sh", status=1)
    assert clone.run("tools/demo.sh")[::2] == (1, ["setup_env.sh"])


@pytest.mark.parametrize("argument", ["-h", "--help"])
def test_the_demo_tells_its_arguments_without_the_set_up(clone: Clone, argument: str) -> None:
    status, output, calls = clone.run("tools/demo.sh", argument)
    assert (status, calls) == (0, [])
    assert "--work-dir DIR" in output and "--quick" in output
