"""How a tool ends: a user's mistake is one sentence on stderr and exit status 2, a bug is a
traceback and a line that says what was being done.

What a user can get wrong is checked in front (`mmdysample.engine.checks`, and where files are read)
and raises `UserError`. No other exception is taken for the user's mistake.
"""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmdysample.errors import UserError

BUG_STATUS = 1
USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130
DEBUG_VARIABLE = "MMDYSAMPLE_DEBUG"
# torchrun kills the other processes well within this time after the first one has failed.
SECONDS_LEFT_TO_RANK_ZERO = 3.0
# A full disk is never a bug.
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ArgumentParser(argparse.ArgumentParser):
    """argparse with errors in the form of all others: one sentence, exit status 2."""

    def error(self, message: str):
        self.exit(USER_ERROR_STATUS, f"error: {message} (--help lists the arguments)\n")


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Should a bug come to light inside, it is told that ``what`` was being done.

    Of nested ones the innermost is told.
    """
    try:
        yield
    except Exception as error:
        if not hasattr(error, "was_doing"):
            error.was_doing = what
        raise


def run_tool(main: Callable[[], int | None]) -> int:
    """Run a tool's ``main`` and return its exit status: what ``main`` returns, None for 0.

    ``MMDYSAMPLE_DEBUG=1`` in the environment shows the traceback of a user's error as well.
    """
    try:
        return main() or 0
    except (KeyboardInterrupt, Exception) as error:
        return _tell(error)


def _tell(error: BaseException) -> int:
    interrupt = _interrupt(error)
    if interrupt is not None:
        if is_rank_zero():
            print(f"\ninterrupted{_hint(interrupt)}", file=sys.stderr, flush=True)
        return INTERRUPTED_STATUS
    sentence = sentence_of(error)
    debug = os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")
    if sentence is None or debug:
        traceback.print_exception(type(error), error, error.__traceback__)
    if sentence is None:
        where = getattr(error, "was_doing", None)
        text = f"a bug or an unforeseen failure{f' while {where}' if where else ''}"
        print(f"error: {text}; the traceback above says where", file=sys.stderr, flush=True)
        return BUG_STATUS
    _leave_to_rank_zero()
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    return USER_ERROR_STATUS


def sentence_of(error: BaseException) -> str | None:
    """What to tell the user, from ``error`` or what it was raised from; None if it is a bug.

    What merely happened before it, as when an ``except`` block fails, is no reason.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, UserError):
            # A DataLoader worker's exception comes back as one of the same class, with the text of
            # its traceback, which ends in the class's name and the sentence.
            name = f"{type(link).__module__}.{type(link).__qualname__}: "
            return " ".join(str(link).rpartition(name)[2].split())
        if isinstance(link, OSError) and link.errno in OUT_OF_SPACE:
            return f"no space left to write {link.filename or 'a file'}{_hint(link)}"
        link = link.__cause__
    return None


def _interrupt(error: BaseException) -> BaseException | None:
    """The interrupt that ``error`` is or came of: a bare ``except`` makes anything of it."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, KeyboardInterrupt):
        link = link.__cause__ or link.__context__
    return link


def add_hint(error: BaseException, hint: str) -> None:
    """Add to an interrupt or a full disk what the user can do about it."""
    # As `add_note` does, which Python 3.10 does not have.
    error.__notes__ = [*getattr(error, "__notes__", []), hint]


def _hint(error: BaseException) -> str:
    return "".join(f"; {note}" for note in getattr(error, "__notes__", []))


def command_to_continue(words: list[str]) -> str:
    """The command line that goes on with the run that ``words`` started.

    It has all of its options. The checkpoint that its ``--resume`` may name gives way to the newest
    one.
    """
    kept: list[str] = []
    may_be_checkpoint = False
    for word in words:
        option, equals, _ = word.partition("=")
        # argparse takes an option's beginning for the option.
        if len(option) > 2 and "--resume".startswith(option):
            may_be_checkpoint = not equals
        elif may_be_checkpoint and not word.startswith("-"):
            may_be_checkpoint = False
        else:
            may_be_checkpoint = False
            kept.append(word)
    return shlex.join([*kept, "--resume"])


def is_rank_zero() -> bool:
    # The process group, which would know, may be what has failed.
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def _leave_to_rank_zero() -> None:
    """All processes of a run mostly fail alike: give the first one the time to say so alone."""
    if not is_rank_zero():
        time.sleep(SECONDS_LEFT_TO_RANK_ZERO)
