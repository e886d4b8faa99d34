"""Where the tools may write: away from the data of the config, and a test to what is new alone.

A test writes to nothing that exists, so that nothing of a user's can be lost. Data sets are kept
free of new files, too: many read whatever lies in their directories.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdysample.engine.data import data_set_configs
from mmdysample.errors import UserError


def check_new(path: str, option: str, cfg: Config) -> None:
    """Raise UserError if there is something at ``path`` already, or data of the config around it.

    Args:
        path: what is to be written.
        option: the argument that gave it, such as ``--out``.
        cfg: whose data sets and evaluators to look at.
    """
    if os.path.lexists(path):
        raise UserError(f"{option} {path} exists already, and is left as it is: give a new name")
    _check_outside_data(path, option, cfg)


def check_new_directory(path: str, option: str, cfg: Config) -> None:
    """As `check_new` for a directory, which may be there if it is empty.

    A relative ``path`` of ``--show-dir`` is below the directory of the run, which is new itself and
    away from the data (`check_work_dir`).
    """
    if not path:
        raise UserError(f"{option} is empty: give the name of a directory")
    if option == "--show-dir" and not os.path.isabs(path):
        if os.path.normpath(path).startswith(os.pardir):
            raise UserError(
                f"{option} {path} is not below the directory of the run, work_dir/timestamp: give "
                "an absolute path to write elsewhere"
            )
        return
    if os.path.lexists(path):
        if not os.path.isdir(path):
            raise UserError(f"{option} {path} is not a directory")
        found = min(os.listdir(path), default=None)
        if found is not None:
            raise UserError(
                f"{option} {path} is not empty, it holds {found}, and is left as it is: give a "
                "new or an empty directory"
            )
    _check_outside_data(path, option, cfg)


def check_work_dir(cfg: Config) -> None:
    """Raise UserError if the work dir, which may exist, is among data of the config."""
    _check_outside_data(cfg.work_dir, "work dir", cfg)


def _check_outside_data(path: str, what: str, cfg: Config) -> None:
    """Compares the directories themselves, not their names: links and mounts are seen through."""
    place = Path(os.path.realpath(path))
    above = {_identity(each) for each in (place, *place.parents)} - {None}
    for directory in data_directories(cfg):
        if _identity(directory) in above:
            raise UserError(
                f"{what} {path}: {directory} holds data of the config, choose another place"
            )


def data_directories(cfg: Config) -> Iterator[str]:
    """The directories that the config's data sets and evaluators read."""
    here = Path.cwd()
    for part in ("train", "val", "test"):
        evaluators = cfg.get(f"{part}_evaluator") or []
        evaluators = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]
        data_sets = data_set_configs((cfg.get(f"{part}_dataloader") or {}).get("dataset"))
        for settings in (*data_sets, *evaluators):
            for directory, images in _directories(settings):
                # The data_root may be one that we work in, such as '.', and hold results as well.
                if images or not here.is_relative_to(os.path.realpath(directory)):
                    yield directory


def _directories(settings: Any) -> Iterator[tuple[str, bool]]:
    """The directories of a data set or an evaluator, and whether files are looked for in them."""
    if not isinstance(settings, dict):
        return
    root = settings.get("data_root") if isinstance(settings.get("data_root"), str) else ""
    if root:
        yield root, False
    prefixes = settings.get("data_prefix")
    for prefix in prefixes.values() if isinstance(prefixes, dict) else ():
        if isinstance(prefix, str):
            yield os.path.join(root, prefix), _is_below(prefix)
    for key in ("ann_file", "seg_prefix"):
        if isinstance(settings.get(key), str):
            path = os.path.join(root, settings[key])
            if os.path.isdir(path):
                yield path, _is_below(settings[key])
            else:
                yield os.path.dirname(path) or ".", False


def _is_below(prefix: str) -> bool:
    """Whether it is a directory of its own, not the data_root itself."""
    return os.path.normpath(prefix) != os.curdir


def _identity(path: str | Path) -> tuple[int, int] | None:
    """What tells a file or directory from every other, None if there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
