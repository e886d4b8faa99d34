"""What is a user's error and what is a bug. The sentences are tested in tools/test_bad_input.py."""

from __future__ import annotations

import errno
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from mmdysample.engine import errors
from mmdysample.engine.errors import (
    BUG_STATUS,
    INTERRUPTED_STATUS,
    USER_ERROR_STATUS,
    ArgumentParser,
    doing,
    run_tool,
    sentence_of,
)
from mmdysample.errors import InvalidValue, UserError


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
        KeyError("x is not in the model registry"),
        AssertionError("failed to load image: x"),
        OSError("no file in particular"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/nowhere/at all"),
    ],
    ids=repr,
)
def test_bugs_keep_their_traceback(bug, capsys):
    assert run_tool(raising(bug)) == BUG_STATUS
    told = capsys.readouterr().err
    assert told.startswith("Traceback") and "in main" in told and type(bug).__name__ in told
    line = "error: a bug or an unforeseen failure; the traceback above says where"
    assert told.splitlines()[-1] == line


def test_it_is_told_what_was_being_done(capsys):
    def main():
        with doing("training"), doing("building the model of config.py"):
            raise KeyError("x")

    assert run_tool(main) == BUG_STATUS
    last = capsys.readouterr().err.splitlines()[-1]
    assert "while building the model of config.py; the traceback above" in last


def test_doing_leaves_users_errors_alone(capsys):
    def main():
        with doing("building"):
            raise UserError("a sentence")

    assert run_tool(main) == USER_ERROR_STATUS
    assert capsys.readouterr().err == "error: a sentence\n"


def bug_after_a_probe():
    try:
        Path("/nowhere/at all").read_text()
    except OSError:
        raise RuntimeError("bug") from None


def bug_after_a_sentence():
    try:
        raise UserError("a sentence")
    except UserError:
        raise RuntimeError("bug")  # noqa: B904 - the case that is tested


@pytest.mark.parametrize("bug", [bug_after_a_probe, bug_after_a_sentence])
def test_what_merely_happened_before_is_no_reason(bug, capsys):
    assert run_tool(bug) == BUG_STATUS
    assert "RuntimeError: bug" in capsys.readouterr().err


def test_what_it_was_raised_from_is():
    def wrapped():
        try:
            raise UserError("the cause")
        except UserError as error:
            raise RuntimeError("a worker died") from error

    assert sentence_of(caught(wrapped)) == "the cause"


def in_the_midst_of_an_interrupt():
    try:
        raise KeyboardInterrupt
    except BaseException:
        raise RuntimeError("a worker has ended")  # noqa: B904


@pytest.mark.parametrize("main", [raising(KeyboardInterrupt()), in_the_midst_of_an_interrupt])
def test_interrupt(main, capsys):
    assert run_tool(main) == INTERRUPTED_STATUS
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_debug_shows_the_traceback_of_users_errors(monkeypatch, capsys):
    monkeypatch.setenv(errors.DEBUG_VARIABLE, "1")
    assert run_tool(raising(UserError("x"))) == USER_ERROR_STATUS
    told = capsys.readouterr().err
    assert told.startswith("Traceback") and told.endswith("error: x\n")
    monkeypatch.setenv(errors.DEBUG_VARIABLE, "0")
    assert run_tool(raising(UserError("x"))) == USER_ERROR_STATUS
    assert capsys.readouterr().err == "error: x\n"


class Refusing(Dataset):
    def __init__(self, error: Exception):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise self.error from OSError("a cause")


@pytest.mark.parametrize("kind", [UserError, InvalidValue])
def test_from_a_worker(kind):
    loader = DataLoader(Refusing(kind("image: x.jpg\nis damaged")), num_workers=1)
    error = caught(lambda: next(iter(loader)))
    assert "Traceback" in str(error), "PyTorch gives the text of the worker's traceback"
    assert sentence_of(error) == "image: x.jpg is damaged"


def test_a_bug_in_a_worker_is_a_bug():
    loader = DataLoader(Refusing(RuntimeError("x")), num_workers=1)
    assert sentence_of(caught(lambda: next(iter(loader)))) is None


def test_out_of_space():
    error = OSError(errno.ENOSPC, "full", "work/epoch_3.pth")
    assert sentence_of(error) == "no space left to write work/epoch_3.pth"


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
