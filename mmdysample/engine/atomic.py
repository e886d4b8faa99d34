"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from mmdysample.engine.errors import UserError

DRAFT_SUFFIX = ".tmp"


@contextlib.contextmanager
def replacing(path: str | os.PathLike, suffix: str = DRAFT_SUFFIX) -> Iterator[Path]:
    """Give a path to write to, which takes the place of ``path`` when the block has succeeded.

    A kill at any moment leaves the earlier ``path`` as it was; at worst a file that ends in
    ``suffix`` stays behind, which the next write of the same ``path`` overwrites.
    """
    target = Path(path)
    draft = target.with_name(target.name + suffix)
    try:
        yield draft
        _flush_to_disk(draft)
        os.replace(draft, target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _flush_to_disk(target.parent)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a small text file atomically."""
    with replacing(path) as draft:
        draft.write_text(text)


def check_writable(path: str | os.PathLike, option: str) -> None:
    """Look, before the work that it is to hold the results of, whether a file can be written.

    Args:
        path: the file, which need not exist.
        option: the argument that gave it, such as ``--csv``, for the sentence.

    Raises:
        UserError: it is a folder, or the folder that it is to be in is missing or not writable.
    """
    folder = Path(path).absolute().parent
    if Path(path).is_dir():
        raise UserError(f"{option} {path} is a folder: give the name of a file")
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise UserError(f"{option} {path}: the folder {folder} {what}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path}: the folder {folder} is not writable")


def _flush_to_disk(path: Path) -> None:
    """fsync a file or, so that a rename survives a power cut, a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
