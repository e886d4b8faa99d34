"""What is a user's error and what is a bug. The sentences are tested in tools/test_bad_input.py."""

from __future__ import annotations

import errno
import re
import sys
import time
from pathlib import Path

import pytest

from mmdysample import DySample, build_upsampler
from mmdysample.engine import errors
from mmdysample.engine.errors import (
    INTERRUPTED_STATUS,
    USER_ERROR_STATUS,
    ArgumentParser,
    UserError,
    add_hint,
    explain,
    run_tool,
)


def caught(function) -> Exception:
    with pytest.raises(Exception) as info:
        function()
    return info.value


def raising(error: BaseException):
    def main():
        raise error

    return main


def test_success():
    assert run_tool(lambda: None) == 0
    assert run_tool(lambda: 3) == 3


def test_users_error(capsys):
    assert run_tool(raising(UserError("a sentence\n  in two lines"))) == USER_ERROR_STATUS
    assert capsys.readouterr().err == "error: a sentence in two lines\n"


@pytest.mark.parametrize(
    "bug",
    [
        KeyError("x"),
        ValueError("need at least one array to concatenate"),
        AssertionError(),
        RuntimeError("size mismatch"),
        OSError("no file in particular"),
        AttributeError("x"),
    ],
    ids=repr,
)
def test_bugs_come_through(bug):
    with pytest.raises(type(bug)):
        run_tool(raising(bug))


def test_interrupt(capsys):
    error = KeyboardInterrupt()
    add_hint(error, "to continue: again")
    assert run_tool(raising(error)) == INTERRUPTED_STATUS
    assert capsys.readouterr().err == "\ninterrupted; to continue: again\n"


def test_debug_shows_users_errors(monkeypatch):
    monkeypatch.setenv(errors.DEBUG_VARIABLE, "1")
    with pytest.raises(UserError):
        run_tool(raising(UserError("x")))
    monkeypatch.setenv(errors.DEBUG_VARIABLE, "0")
    assert run_tool(raising(UserError("x"))) == USER_ERROR_STATUS


def test_library_checks_are_the_users():
    assert "group" in explain(caught(lambda: build_upsampler(dict(type="DySample", group=1), 8)))
    assert "groups" in explain(caught(lambda: DySample(8, groups=3)))


def test_library_bugs_are_not():
    # int() fails inside the library, which did not check: its traceback is wanted.
    source = "def check(value):\n    return int(value)\n"
    scope: dict = {}
    exec(compile(source, f"{errors._PACKAGE}/made_up.py", "exec"), scope)
    assert explain(caught(lambda: scope["check"]("x"))) is None


def test_cause_is_looked_at():
    def wrapped():
        try:
            raise UserError("the cause")
        except UserError as error:
            raise RuntimeError("a worker died") from error

    assert explain(caught(wrapped)) == "the cause"


def test_from_a_worker():
    text = (
        "Caught UserError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
        "last):\n  File ...\nOSError: x\n\nThe above exception was the direct cause\n\n"
        "Traceback (most recent call last):\nmmdysample.engine.errors.UserError: the sentence\n"
    )
    assert explain(UserError(text)) == "the sentence"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_out_of_space(code):
    error = OSError(code, "full", "work/epoch_3.pth")
    add_hint(error, "what was there is untouched")
    assert explain(error) == (
        "no space left to write work/epoch_3.pth; what was there is untouched"
    )


def test_missing_file():
    assert explain(caught(lambda: Path("/nowhere/at all").read_text())) == (
        "/nowhere/at all: no such file or directory"
    )


def test_rank_zero_speaks_first(monkeypatch):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setenv("RANK", "0")
    run_tool(raising(UserError("x")))
    assert waited == []
    monkeypatch.setenv("RANK", "1")
    run_tool(raising(UserError("x")))
    assert waited == [errors.SECONDS_LEFT_TO_RANK_ZERO]


def test_arguments(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tool"])
    parser = ArgumentParser()
    parser.add_argument("config")
    with pytest.raises(SystemExit) as end:
        parser.parse_args()
    assert end.value.code == USER_ERROR_STATUS
    assert capsys.readouterr().err.startswith("error: the following arguments are required: config")


class Part:
    """Built inside of another class, whose author is to blame if it refuses its settings."""

    def __init__(self, size):
        if size != 1:
            raise ValueError("size")


class Whole:
    def __init__(self, size=1, *, part_size=1, broken=False):
        if size not in (1, 2):
            raise ValueError(f"size must be 1 or 2, got {size}")
        Part(part_size)
        if broken:
            self.check(None)

    def check(self, value):
        raise TypeError("a check that was never meant for a config")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (dict(size=3), r"Whole does not .* config: size must be 1 or 2, got 3"),
        (dict(sise=3), r"Whole has no setting 'sise' \(did you mean 'size'\?\)"),
        (dict(part_size=2), None),
        (dict(broken=True), None),
    ],
    ids=str,
)
def test_settings_of_a_config_and_bugs_behind_them(settings, expected):
    """What a class refuses itself is the user's; what fails in what it uses is a bug."""
    reason = "needs mmengine: bash tools/setup_env.sh installs it"
    registry = pytest.importorskip("mmengine.registry", reason=reason).Registry("thing")
    registry.register_module(module=Whole)
    sentence = explain(caught(lambda: registry.build(dict(type="Whole", **settings))))
    if expected is None:
        assert sentence is None
    else:
        assert re.fullmatch(expected, sentence)


def test_panopticapi_is_missing_but_not_needed():
    error = ImportError("panopticapi is not installed, please install it by: pip install git+...")
    assert "configs/panoptic_fpn" in explain(error)
