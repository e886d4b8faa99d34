"""tools/test.sh and .ci/run, with a stand-in for Python."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.tools.set_up import ROOT, SetUp

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="tools/setup_env.sh is for Linux: run it there"
)


def test_sets_up_checks_the_form_and_runs_pytest_with_its_arguments(tmp_path: Path) -> None:
    setup = SetUp(tmp_path)
    status, output, errors = setup.run("tests/ops", "-k", "a b", script="test.sh")
    assert (status, errors) == (0, "")
    after = setup.calls()[-4:]
    assert after[0].startswith("ruff check")
    assert after[1].startswith("ruff format --check")
    assert after[2].startswith("shellcheck -x tools/setup_env.sh")
    assert after[3].startswith("-m pytest") and "tests/ops -k a b" in after[3]
    assert "All checks passed" in output


@pytest.mark.parametrize(
    ("variables", "status"),
    [
        ({"FAIL_AT": "-m pytest"}, 1),
        ({"FAIL_AT": "torch numpy"}, 1),
        ({"PYTHON": "no-such-python"}, 2),
    ],
    ids=["tests", "set-up", "python"],
)
def test_fails_with_what_failed(tmp_path: Path, variables: dict[str, str], status: int) -> None:
    setup = SetUp(tmp_path)
    result, output, _ = setup.run(script="test.sh", FAIL_WITH="error: broken", **variables)
    assert result == status
    assert "All checks passed" not in output
    assert bool(setup.calls("-m pytest")) == (variables.get("FAIL_AT") == "-m pytest")


def test_ci_calls_the_test_command_and_nothing_else() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set "))]
    assert len(commands) == 1
    assert commands[0].endswith('/tools/test.sh"')
