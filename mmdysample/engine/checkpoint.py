"""Checkpoints from files, addresses and mmengine's lists; reader.py lets nothing in them run."""

from __future__ import annotations

import os
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.error import URLError
from urllib.parse import urlparse

import mmengine
import torch
from mmengine.dist import barrier, get_local_rank
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from mmdysample.engine.reader import read
from mmdysample.engine.unpickler import Refused
from mmdysample.engine.weights import CheckpointError, check_names, weights_of
from mmdysample.registry import did_you_mean


def load_checkpoint(place: str) -> dict:
    """Load a file, an address or a name of a list (``torchvision://...``) without running code."""
    install_safe_loading()
    return CheckpointLoader.load_checkpoint(place, logger="silent")


def install_safe_loading() -> None:
    """Have mmengine load every checkpoint by this module, in the whole process.

    A model's ``init_cfg`` and the functions of mmdet and mmseg load through the same registry of
    mmengine's, so that nothing in their checkpoints is run either. Loaders of other packages for
    schemes of their own stay.
    """
    CheckpointLoader.register_scheme(_SCHEMES, loader=load_from_mmdysample, force=True)


# ------------------------------------------------- files


def load_checkpoint_file(path: str | os.PathLike) -> dict:
    """Load a checkpoint without running code, its tensors on the CPU.

    The file is read once, and checksums are compared while it is read. Under ``state_dict`` or, as
    mmdet's backbones look there next, ``model`` there are weights by name, if the key is there.
    Other files may be weights themselves, or hold them under a prefix of somebody's own.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint, or asks for a function or
            class that no checkpoint needs.
    """
    with _opened(path) as file:
        try:
            loaded = read(file, os.fstat(file.fileno()).st_size)
        except Refused as error:
            raise CheckpointError(
                f"checkpoint {path} was refused and nothing in it was run: it asks for "
                f"{ascii(str(error))[:80]}, which no checkpoint of weights needs and could run code"
            ) from error
        except Exception as error:  # damaged bytes make a parser raise nearly anything
            reason = f"{type(error).__name__}, {ascii(str(error))[:200]}"
            raise CheckpointError(
                f"checkpoint {path} cannot be read, it is damaged or no checkpoint: {reason}"
            ) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(
            f"checkpoint {path} holds a {type(loaded).__name__} where a dict of weights is expected"
        )
    for key in ("state_dict", "model"):
        if key in loaded:
            loaded[key] = weights_of(loaded, str(path), key)
            return loaded
    check_names(loaded, loaded, str(path))
    return loaded


def check_checkpoint_file(path: str | os.PathLike) -> None:
    """Raise CheckpointError if a file is missing, empty, cut off or plainly no checkpoint.

    Its contents are not read: what else is wrong is seen when it is loaded.
    """
    with _opened(path):
        pass


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[BinaryIO]:
    path = Path(path).expanduser()
    try:
        if not path.exists():
            raise CheckpointError(f"checkpoint {path} does not exist")
        if path.is_dir():
            raise CheckpointError(f"checkpoint {path} is a directory, not a file")
        # Reading from a pipe or a device may not end.
        if not path.is_file():
            raise CheckpointError(f"checkpoint {path} is not a regular file")
        with open(path, "rb") as file:
            head = file.read(4)
            if not head:
                raise CheckpointError(f"checkpoint {path} is empty")
            if head == b"PK\x03\x04" and not zipfile.is_zipfile(file):
                raise CheckpointError(f"checkpoint {path} is cut off or damaged")
            if head != b"PK\x03\x04" and head[:1] != b"\x80":
                raise CheckpointError(f"checkpoint {path} is not a file of torch.save")
            file.seek(0)
            yield file
    except OSError as error:
        reason = os.strerror(error.errno).lower()
        raise CheckpointError(f"checkpoint {path} cannot be read: {reason}") from error


# ------------------------------------------------- addresses and lists

_SCHEMES = (
    *("", "http://", "https://", "modelzoo://", "torchvision://"),
    *("open-mmlab://", "openmmlab://", "mmcls://"),
    *("pavi://", r"(\S+\:)?s3://", r"(\S+\:)?petrel://"),
)


def load_from_mmdysample(filename: str, map_location: Any = None) -> dict:
    """The loader of `_SCHEMES`; mmengine's log has the end of its name.

    Tensors come to the CPU, whatever ``map_location`` says: models copy them to where they are.
    """
    scheme, separator, name = filename.partition("://")
    if not separator:
        return load_checkpoint_file(filename)
    if scheme in ("http", "https"):
        return load_checkpoint_file(_download(filename))
    if scheme not in _LISTS:
        raise CheckpointError(f"{filename}: download the checkpoint, and give the file's path")
    listed = _LISTS[scheme]()
    if name not in listed:
        raise CheckpointError(
            f"checkpoint {filename} is in no list of such weights{did_you_mean(name, listed)}"
        )
    loaded = load_from_mmdysample(listed[name])
    return _backbone_of(loaded, filename) if scheme == "mmcls" else loaded


def _download(url: str) -> Path:
    """The file in the cache of torch.hub, where a machine's first process puts it."""
    name = PurePosixPath(urlparse(url).path).name
    path = Path(torch.hub.get_dir(), "checkpoints", name)
    if name in ("", ".."):
        raise CheckpointError(f"{url} names no file")
    try:
        if get_local_rank() == 0 and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), progress=sys.stderr.isatty())
    except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
        raise CheckpointError(
            f"{url} cannot be downloaded ({getattr(error, 'reason', error)}): download it "
            "elsewhere and give its path in place of this address; for a backbone, --cfg-options "
            "model.backbone.init_cfg.checkpoint=PATH, or model.backbone.init_cfg=None to start "
            "from random weights"
        ) from error
    finally:
        barrier()
    return path


def _torchvision() -> dict[str, str]:
    try:
        return get_torchvision_models()
    except ImportError:
        # mmengine's own list; torchvision's is longer.
        return mmengine.load(Path(mmengine.__file__).with_name("hub") / "torchvision_0.12.json")


def _backbone_of(loaded: dict, name: str) -> dict:
    """A classifier's backbone."""
    weights, start = weights_of(loaded, name), "backbone."
    names = [entry for entry in weights if entry.startswith(start)]
    return dict(state_dict=OrderedDict((n.removeprefix(start), weights[n]) for n in names))


_LISTS = {
    "modelzoo": _torchvision,
    "torchvision": _torchvision,
    "open-mmlab": get_external_models,
    "openmmlab": get_external_models,
    "mmcls": get_mmcls_models,
}
