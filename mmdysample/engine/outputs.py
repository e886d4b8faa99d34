"""Where the tools may write: away from the data of the config, and a test to what is new alone.

A test writes to nothing that exists, so that nothing of a user's can be lost. Data sets are kept
free of new files, too: many read whatever lies in their directories.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

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
    check_outside_data(path, option, cfg)


def check_new_directory(path: str, option: str, cfg: Config) -> None:
    """As `check_new` for a directory, which may be there if it is empty.

    A relative ``path`` of ``--show-dir`` is below the directory of the run, which is new itself and
    away from the data.
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
    if os.path.lexists(path) and not os.path.isdir(path):
        raise UserError(f"{option} {path} is not a directory")
    if os.path.isdir(path) and os.listdir(path):
        raise UserError(
            f"{option} {path} is not empty, it holds {min(os.listdir(path))}, and is left as it "
            "is: give a new or an empty directory"
        )
    check_outside_data(path, option, cfg)


def check_outside_data(path: str, what: str, cfg: Config) -> None:
    """Raise UserError if ``path`` is in a directory of the config's data; links are seen through.

    A directory of data that we work in, such as a ``data_root`` of ``.``, may hold results as well.
    """
    place, here = Path(os.path.realpath(path)), Path.cwd()
    for each in data_paths(cfg):
        data = os.path.realpath(each)
        if place.is_relative_to(data) and not here.is_relative_to(data):
            raise UserError(f"{what} {path}: {each} holds data of the config, choose another place")


def data_paths(cfg: Config) -> Iterator[str]:
    """The directories and list files that the config's data sets and evaluators read.

    The directory of a list file is none of them: a list may lie anywhere.
    """
    for part in ("train", "val", "test"):
        yield from _paths(cfg.get(f"{part}_dataloader"), "")
        yield from _paths(cfg.get(f"{part}_evaluator"), "")


def _paths(settings: Any, root: str) -> Iterator[str]:
    """Every path that settings name at any depth, below the ``data_root`` around them."""
    if isinstance(settings, (list, tuple)):
        for each in settings:
            yield from _paths(each, root)
    if not isinstance(settings, Mapping):
        return
    if isinstance(settings.get("data_root"), str):
        root = settings["data_root"]
        yield root
    for key, value in settings.items():
        if key == "data_prefix" and isinstance(value, Mapping):
            yield from (os.path.join(root, each) for each in value.values() if type(each) is str)
        elif key in ("ann_file", "seg_prefix") and isinstance(value, str):
            yield os.path.join(root, value)
        elif key != "pipeline":
            yield from _paths(value, root)
