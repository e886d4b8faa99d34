"""The output directory: whole or absent, and never somebody else's."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .files import Arguments, expected_files

MARKER = "shapes.json"
"""Lies in every finished directory: the arguments that made it, and a hash of each file."""
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
            f"the directory {out.parent} does not exist: make it first, or choose another OUT"
        )
    if not out.exists():
        return False
    if not out.is_dir():
        raise ShapesError(f"{out} is a file: OUT must be a new directory")
    if not any(out.iterdir()):
        return False
    found = _read_marker(out)
    if found is None:
        raise ShapesError(
            f"{out} was not made by this tool and is left as it is: choose a new or an empty "
            "directory"
        )
    if overwrite:
        _check_only_ours(out, out)
        return False
    if {**found, "files": None} != {**_marker(arguments), "files": None}:
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
    """The marker's content, None if the directory is not this tool's."""
    try:
        marker = json.loads((out / MARKER).read_text())
    except (FileNotFoundError, IsADirectoryError, ValueError, RecursionError):
        return None
    ours = isinstance(marker, dict) and marker.get("tool") == "mmdysample make_shapes"
    return marker if ours and isinstance(marker.get("arguments"), dict) else None


def _check_only_ours(root: Path, out: Path) -> None:
    """Raise ShapesError if there is anything in `root` that this tool did not write as it is.

    Args:
        root: a data set.
        out: its name for the user.
    """
    marker = _read_marker(root)
    files = marker.get("files") if marker else None
    if not isinstance(files, dict):
        raise ShapesError(
            f"{out} has no list of the files that this tool made and is left as it is: remove it, "
            "or choose another OUT"
        )
    for path, found in _hashes(root):
        if found != files.get(path):
            what = "was changed" if path in files else "was not made by this tool"
            raise ShapesError(
                f"{out} is left as it is, because {path} in it {what}: move it away, or choose "
                "another OUT"
            )


def _hashes(root: Path) -> Iterator[tuple[str, str]]:
    """Path and hash of every file below `root` but the marker; no hash for what is no file."""
    for directory, names, files in os.walk(root):
        names.sort()
        for name in sorted(files) + [each for each in names if Path(directory, each).is_symlink()]:
            path = Path(directory, name)
            inside = path.relative_to(root).as_posix()
            if path.is_symlink() or not path.is_file():
                yield inside, ""
            elif inside != MARKER:
                yield inside, hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


@contextmanager
def unfinished(out: Path, arguments: Arguments, overwrite: bool) -> Iterator[Path]:
    """A directory beside `out` to draw in, which takes the place of `out` if the body succeeds.

    It is removed if the body fails. If the process is killed instead, it stays: its name ends in
    `.partial`.
    """
    partial = _beside(out, "partial")
    partial.mkdir()
    try:
        yield partial
        marker = {**_marker(arguments), "files": dict(_hashes(partial))}
        (partial / MARKER).write_text(json.dumps(marker, indent=1) + "\n")
        _replace(out, partial, overwrite)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _beside(out: Path, what: str) -> Path:
    """A name that nothing has."""
    return out.with_name(f"{out.name}.{secrets.token_hex(4)}.{what}")


def _replace(out: Path, partial: Path, overwrite: bool) -> None:
    """Put `partial` in the place of `out`, which is absent, empty or an older data set."""
    # What was there before may have changed: drawing takes a while.
    if not out.exists() or not any(out.iterdir()):
        os.rename(partial, out)
        return
    if not overwrite:
        raise ShapesError(f"{out} was made by another process while this one was drawing")
    older = _beside(out, "replaced")
    try:
        # Moved before it is checked: nothing that comes to `out` in between is removed with it.
        os.rename(out, older)
        _check_only_ours(older, out)
        os.rename(partial, out)
    except BaseException:  # also Ctrl-C: the older one goes back
        if older.exists() and not out.exists():
            os.rename(older, out)
        raise
    shutil.rmtree(older, ignore_errors=True)
