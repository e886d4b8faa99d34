"""What tools that lay a data set out share: the result is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mmdysample.engine.errors import UserError


def check_out(out: Path, *sources: Path) -> None:
    """UserError unless ``out`` is a new or an empty directory, away from what is read.

    Args:
        out: a real path; the directory that it is in has to be there.
        sources: directories whose files are read.
    """
    if not out.parent.is_dir():
        raise UserError(
            f"the directory {out.parent} does not exist: make it first, or choose another OUT"
        )
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists and is left as it is: choose a new or an empty directory")
    for source in sources:
        if out.is_relative_to(os.path.realpath(source)):
            raise UserError(f"{out} is in {source}, which is read: choose another OUT")


@contextlib.contextmanager
def system_errors(out: Path) -> Iterator[None]:
    """A UserError with the file that the system refuses; of a failing write it is below ``out``.

    A failing write, unlike a failing open, does not know its file.
    """
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or out
        raise UserError(f"cannot use {where}: {error.strerror or error}") from error


@contextlib.contextmanager
def whole_directory(out: Path) -> Iterator[Path]:
    """Give a directory beside ``out`` that takes its place when the block has succeeded.

    A process that is killed leaves its ``OUT.*.partial`` behind.
    """
    with tempfile.TemporaryDirectory(".partial", f"{out.name}.", out.parent) as partial:
        root = Path(partial, out.name)
        root.mkdir()  # with the usual permissions, which a temporary directory does not have
        yield root
        root.rename(out)


def link(source: Path, target: Path) -> None:
    """A hard link, or a copy where there are none. What a symbolic link leads to is taken."""
    source = source.resolve()
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links; a full one fails below, too
        shutil.copyfile(source, target)


def show_progress(text: str) -> None:
    """Rewrites a line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
