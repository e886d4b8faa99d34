"""Checkpoints load without running code.

A pickle can name any function and have it called. mmengine's checkpoints need little beyond
tensors: `HistoryBuffer` (the logged scalars), numpy arrays and scalars inside it, and
``getattr(HistoryBuffer, method)``. Exactly these are allowed here, whatever the version of torch;
a checkpoint that asks for anything else is refused before it gets it.
"""

from __future__ import annotations

import codecs
import functools
import importlib.util
import os
import pickle
import re
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import mmengine
import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader

from mmdysample.engine.errors import UserError
from mmdysample.registry import did_you_mean

_torch_load = torch.load
_ARCHIVE, _PICKLE = b"PK\x03\x04", b"\x80"
_STATISTICS = ("min", "max", "current", "mean")
_DTYPES = "?bBhHiIlLqQefdgFDOSU"


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, refused or made for something else."""


def history_statistic(owner: object, name: str) -> Callable:
    """The part of ``getattr`` that checkpoints need: HistoryBuffer's four statistics."""
    if owner is HistoryBuffer and name in _STATISTICS:
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f"Unsupported GLOBAL getattr({owner!r}, {name!r})")


def allowed_globals() -> dict[str, Any]:
    """Name in a pickle -> what it gets, beyond torch's own tensors and containers."""
    reconstruct = np.zeros(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    allowed = {
        "mmengine.logging.history_buffer.HistoryBuffer": HistoryBuffer,
        "builtins.getattr": history_statistic,
        # The bytes of numpy's arrays; torch allows it by itself since 2.6.
        "_codecs.encode": codecs.encode,
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
    }
    # numpy 2 renamed numpy.core, and checkpoints of either version load under either.
    for core in ("numpy.core", "numpy._core"):
        allowed[f"{core}.multiarray._reconstruct"] = reconstruct
        allowed[f"{core}.multiarray.scalar"] = scalar
    for dtype in _DTYPES:
        kind = type(np.dtype(dtype))
        allowed[f"{kind.__module__}.{kind.__qualname__}"] = kind
    return allowed


class _AllowListUnpickler(pickle.Unpickler):
    """For torch before 2.6, whose weights_only mode cannot be told about other names."""

    def find_class(self, module: str, name: str) -> Any:
        # Private, and needed for these versions alone.
        from torch._weights_only_unpickler import _get_allowed_globals

        allowed = {**_get_allowed_globals(), **allowed_globals()}
        # torch.save writes pickles that Python 2 could read.
        module = "builtins" if module == "__builtin__" else module
        try:
            return allowed[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"Unsupported GLOBAL {module}.{name}") from None


def _load_allow_listed(file, **kwargs) -> Any:
    return _AllowListUnpickler(file, **kwargs).load()


_ALLOW_LIST_PICKLE = types.SimpleNamespace(
    __name__="allow_list_pickle", Unpickler=_AllowListUnpickler, load=_load_allow_listed
)


def _takes_named_globals() -> bool:
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    return (major, minor) >= (2, 6)


def unpickle(file: Any, map_location: Any = None, *, mmap: bool = False) -> Any:
    """``torch.load`` restricted to `allowed_globals`."""
    options = dict(map_location=map_location, mmap=mmap)
    if not _takes_named_globals():
        return _torch_load(file, pickle_module=_ALLOW_LIST_PICKLE, **options)
    pairs = [(found, name) for name, found in allowed_globals().items()]
    with torch.serialization.safe_globals(pairs):
        return _torch_load(file, weights_only=True, **options)


def load_checkpoint_file(path: Any, map_location: Any = None, *, lazy: bool = False) -> dict:
    """Load a checkpoint without running code.

    Args:
        path: a file's path, or an open binary file.
        map_location: as for ``torch.load``.
        lazy: leave tensors on the disk until they are used (for looking at the rest).

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint, or asks for a function or
            class that no checkpoint needs.
    """
    named = isinstance(path, (str, os.PathLike))
    name = os.fspath(path) if named else getattr(path, "name", "the checkpoint")
    if named:
        check_is_whole(path)
        # torch before 2.2 maps no file whose name is a Path into memory.
        path = name = os.path.expanduser(name)
    try:
        loaded = unpickle(path, map_location, mmap=lazy and named and zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(name, error)) from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"checkpoint {name} cannot be read: {reason[0]}") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(
            f"checkpoint {name} holds a {type(loaded).__name__} where a dict of weights is expected"
        )
    return loaded


def _refusal(name: str, error: Exception) -> str:
    wanted = re.search(r"GLOBAL (getattr\(.*?\)|[\w.]+)", str(error))
    if wanted is None:
        return f"checkpoint {name} is damaged or is no checkpoint of PyTorch"
    return (
        f"checkpoint {name} was refused and nothing in it was run: it asks for "
        f"{wanted.group(1)}, which no checkpoint of weights needs and which could run code"
    )


def check_is_whole(path: str | os.PathLike) -> None:
    """Raise CheckpointError unless ``path`` is a file whose archive is complete and unchanged.

    Files of torch before 1.6 are no archives: whether they are whole is seen when they are read.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise CheckpointError(f"checkpoint {path} does not exist")
    if path.is_dir():
        raise CheckpointError(f"checkpoint {path} is a folder, not a file")
    found = path.stat()
    fault = _fault(str(path), found.st_size, found.st_mtime_ns)
    if fault:
        raise CheckpointError(f"checkpoint {path} {fault}")


@functools.lru_cache
def _fault(path: str, size: int, changed: int) -> str | None:
    """What is wrong with a file, read once as long as its ``size`` and time of change stay."""
    with open(path, "rb") as file:
        head = file.read(4)
    if not head:
        return "is empty"
    if head[:1] == _PICKLE:
        return None
    if head != _ARCHIVE:
        return "is not a file of torch.save"
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            scripted = any(entry.endswith("/constants.pkl") for entry in archive.namelist())
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        return f"is cut off or damaged ({str(error).lower()})"
    if damaged:
        return f"is damaged: {damaged} has a wrong checksum"
    return "is a TorchScript program, not a checkpoint" if scripted else None


def install_safe_loading() -> None:
    """Have mmengine load every checkpoint, from whatever place, without running code.

    mmengine's loaders (local file, http, torchvision://, ...) all end in ``torch.load``: each is
    registered anew with ``torch.load`` exchanged for the length of its call. Where torchvision is
    not installed, ``torchvision://`` goes by mmengine's own list.
    """
    listed = () if importlib.util.find_spec("torchvision") else ("modelzoo://", "torchvision://")
    for scheme, loader in list(CheckpointLoader._schemes.items()):
        if not hasattr(loader, "runs_no_code"):
            loader = _load_listed if scheme in listed else loader
            CheckpointLoader.register_scheme(scheme, loader=_guarded(loader), force=True)


def _load_listed(filename: str, map_location: Any = None) -> dict:
    """Load ``torchvision://resnet50`` without torchvision, which mmengine asks for a list alone."""
    listed = mmengine.load(Path(mmengine.__file__).parent / "hub" / "torchvision_0.12.json")
    name = filename.partition("://")[2]
    if name not in listed:
        raise CheckpointError(
            f"checkpoint {filename} is in no list of torchvision's weights"
            f"{did_you_mean(name, listed)}"
        )
    return CheckpointLoader.load_checkpoint(listed[name], map_location)


def _guarded(loader: Callable) -> Callable:
    def load(f, map_location=None, *_, **__):
        return load_checkpoint_file(f, map_location)

    @functools.wraps(loader)
    def guarded(*args, **kwargs):
        with mock.patch.object(torch, "load", load):
            return loader(*args, **kwargs)

    guarded.runs_no_code = True
    return guarded
