"""The output folder: whole or absent, and never somebody else's."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .files import Arguments, expected_files

MARKER = "shapes.json"
"""Lies in every finished folder and tells the arguments that made it."""
LOCK = ".drawing"
"""Lies in every unfinished folder; locked while a process draws into it."""
REPLACED = ".replaced"
VERSION = 1
"""Of the drawings: raised when the same arguments draw something else."""


class ShapesError(Exception):
    """Something the user can set right; the message is one sentence."""


def _marker(arguments: Arguments) -> dict:
    return {"tool": "mmdysample make_shapes", "version": VERSION, "arguments": arguments.as_dict()}


def is_finished(out: Path, arguments: Arguments, overwrite: bool) -> bool:
    """Whether `out` already holds what `arguments` draw.

    Raises:
        ShapesError: if something lies at `out` that may not be replaced.
    """
    if not out.parent.is_dir():
        raise ShapesError(
            f"the folder {out.parent} does not exist: make it first, or choose another OUT"
        )
    if not out.exists():
        return False
    if not out.is_dir():
        raise ShapesError(f"{out} is a file: OUT must be a new folder")
    if not any(out.iterdir()):
        return False
    found = _read_marker(out)
    if found is None:
        raise ShapesError(
            f"{out} was not made by this tool and is left as it is: choose a new or an empty folder"
        )
    if overwrite:
        return False
    if found != _marker(arguments):
        made_with = " ".join(f"{name}={value}" for name, value in found["arguments"].items())
        raise ShapesError(
            f"{out} holds another Shapes data set ({made_with}, drawing version "
            f"{found.get('version')}): add --overwrite to replace it, or choose another OUT"
        )
    missing = [path for path in expected_files(arguments) if not (out / path).is_file()]
    if missing:
        raise ShapesError(
            f"{out} has lost {len(missing)} of its files, such as {missing[0]}: "
            "add --overwrite to draw it again"
        )
    return True


def _read_marker(out: Path) -> dict | None:
    """The marker's content, None if the folder is not this tool's."""
    try:
        marker = json.loads((out / MARKER).read_text())
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return None
    ours = isinstance(marker, dict) and marker.get("tool") == "mmdysample make_shapes"
    return marker if ours and isinstance(marker.get("arguments"), dict) else None


@contextmanager
def unfinished(out: Path, arguments: Arguments) -> Iterator[Path]:
    """A folder beside `out` to draw in, which takes the place of `out` if the body succeeds.

    It is removed if the body fails. If the process is killed instead, `OUT.partial` stays, and the
    next run starts it over.
    """
    partial = out.with_name(out.name + ".partial")
    try:
        partial.mkdir()
    except FileExistsError:
        if not (partial / LOCK).is_file():
            raise ShapesError(
                f"{partial}, where {out.name} would be drawn, was not made by this tool: "
                "move it away, or choose another OUT"
            ) from None
    with open(partial / LOCK, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ShapesError(f"another process is drawing {out} at this moment") from None
        try:
            _empty(partial)
            yield partial
            (partial / MARKER).write_text(json.dumps(_marker(arguments), indent=2) + "\n")
            _replace(out, partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def _empty(partial: Path) -> None:
    for path in partial.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _replace(out: Path, partial: Path) -> None:
    """Put `partial` in the place of `out`, which is absent, empty or an older data set."""
    try:
        if out.exists():
            os.rename(out, partial / REPLACED)
        os.rename(partial, out)
    except BaseException:  # also Ctrl-C between the two: the older one goes back
        if (partial / REPLACED).exists():
            os.rename(partial / REPLACED, out)
        raise
    (out / LOCK).unlink()
    shutil.rmtree(out / REPLACED, ignore_errors=True)
