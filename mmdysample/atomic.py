"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from mmdysample.errors import UserError

DRAFT_SUFFIX = ".tmp"
_RANDOM_BYTES = 8


@contextlib.contextmanager
def replacing(path: str | os.PathLike, suffix: str = DRAFT_SUFFIX) -> Iterator[Path]:
    """Give a path to write to, which takes the place of ``path`` when the block has succeeded.

    The draft lies beside ``path`` under a name that nothing else has, and gets its permissions. A
    kill at any moment leaves the earlier ``path`` as it was; at worst the draft, which ends in
    ``suffix``, stays behind. Symbolic links are followed: the file that they lead to is replaced.

    Raises:
        UserError: ``path`` is a directory, a device or a pipe.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise UserError(f"{path} is not a regular file")
    draft = target.with_name(f"{target.name}.{secrets.token_hex(_RANDOM_BYTES)}{suffix}")
    descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        # Held while the draft is written: see `remove_abandoned_drafts`.
        _lock(descriptor)
        yield draft
        if target.exists():
            os.chmod(draft, target.stat().st_mode & 0o7777)
        _flush_to_disk(draft)
        os.replace(draft, target)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(draft)):
            error.filename = str(path)
        raise
    finally:
        os.close(descriptor)
    _flush_to_disk(target.parent)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a small text file atomically."""
    with replacing(path) as draft:
        draft.write_text(text)


def remove_abandoned_drafts(directory: str | os.PathLike, pattern: str) -> None:
    """Remove what killed processes did not finish writing in the place of files of a name.

    Args:
        directory: where the files are.
        pattern: shell pattern of their names, such as ``epoch_*.pth``.
    """
    drafts = re.compile(rf".+\.[0-9a-f]{{{2 * _RANDOM_BYTES}}}{re.escape(DRAFT_SUFFIX)}")
    for path in Path(directory).glob(f"{pattern}.*{DRAFT_SUFFIX}"):
        if drafts.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if _lock(file.fileno()):  # else another process is writing it
                    path.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike, option: str) -> None:
    """Look, before the work that it is to hold the results of, whether a file can be written.

    Args:
        path: the file, which need not exist.
        option: the argument that gave it, such as ``--csv``, for the sentence.

    Raises:
        UserError: it is something else than a regular file, or not writable, or the directory that
            it is to be in is missing or not writable.
    """
    if Path(path).is_dir():
        raise UserError(f"{option} {path} is a directory: give the name of a file")
    if os.path.exists(path):
        if not os.path.isfile(path):
            raise UserError(f"{option} {path} is not a regular file")
        if not os.access(path, os.W_OK):
            raise UserError(f"{option} {path} is not writable")
        if option == "--csv" and Path(path).suffix != ".csv":
            raise UserError(f"{option} {path} exists and is not a .csv file: give a new name")
    directory = Path(os.path.realpath(path)).parent
    if not directory.is_dir():
        what = "is not a directory" if directory.exists() else "does not exist"
        raise UserError(f"{option} {path}: {directory} {what}")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path}: the directory {directory} is not writable")


def _lock(descriptor: int) -> bool:
    """Lock an open file until it is closed; False if another process has, or nobody can."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _flush_to_disk(path: Path) -> None:
    """fsync a file or, so that a rename survives a power cut, a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
