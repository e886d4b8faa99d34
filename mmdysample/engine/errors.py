"""How a tool ends: a user's mistake is one sentence on stderr and exit status 2, a bug is a
traceback and a line that says what was being done.

What a user can get wrong is checked in front (`mmdysample.engine.checks`, and where files are read)
and raises `UserError` (mmdysample/errors.py). No other exception is taken for the user's mistake.
"""

from __future__ import annotations

import argparse
import errno
import os
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
    """If something fails inside, a line below the traceback says that ``what`` was being done.

    With nesting, the innermost.
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
    if _is_interrupt(error):
        if is_rank_zero():
            print("\ninterrupted", file=sys.stderr, flush=True)
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
    if not is_rank_zero():
        # All processes fail the same; rank 0 is given time to print.
        time.sleep(SECONDS_LEFT_TO_RANK_ZERO)
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
            return f"no space left to write {link.filename or 'a file'}"
        link = link.__cause__
    return None


def _is_interrupt(error: BaseException) -> bool:
    """Whether it is an interrupt or came during one, as the end of a worker does."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, KeyboardInterrupt):
        link = link.__cause__ or link.__context__
    return link is not None


def is_rank_zero() -> bool:
    # The process group, which would know, may be what has failed.
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
