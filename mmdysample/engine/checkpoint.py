"""Checkpoints from whatever place, and the weights in them into a model.

Files are read by reader.py, in which nothing can run.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import re
import sys
import zipfile
from collections import OrderedDict
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.error import URLError
from urllib.parse import urlparse

import mmengine
import torch
from mmengine.dist import barrier, get_local_rank
from mmengine.fileio import get_file_backend
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmdysample.engine.reader import PARSE_ERRORS, Refused, read
from mmdysample.errors import UserError
from mmdysample.registry import did_you_mean


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, refused or made for something else."""


def load_checkpoint(place: str) -> dict:
    """Load a file, an address or a name of a list (``torchvision://...``) without running code."""
    install_safe_loading()
    return CheckpointLoader.load_checkpoint(place, logger="silent")


def load_checkpoint_file(path: str | os.PathLike) -> dict:
    """Load a checkpoint without running code, its tensors on the CPU.

    The file is read once, and checksums are compared while it is read.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint, or asks for a function or
            class that no checkpoint needs.
    """
    path = _existing(path)
    with open(path, "rb") as file:
        _check_beginning(file, path)
        file.seek(0)
        return _load(file, path.stat().st_size, str(path))


def check_checkpoint_file(path: str | os.PathLike) -> None:
    """Raise CheckpointError if a file is missing, empty, cut off or plainly no checkpoint.

    Its contents are not read: what else is wrong is seen when it is loaded.
    """
    path = _existing(path)
    with open(path, "rb") as file:
        _check_beginning(file, path)


def _check_beginning(file: BinaryIO, path: Path) -> None:
    head = file.read(4)
    if head == b"PK\x03\x04" and zipfile.is_zipfile(file):
        return
    if not head:
        raise CheckpointError(f"checkpoint {path} is empty")
    if head == b"PK\x03\x04":
        raise CheckpointError(f"checkpoint {path} is cut off or damaged")
    if head[:1] != b"\x80":
        raise CheckpointError(f"checkpoint {path} is not a file of torch.save")


def _existing(path: str | os.PathLike) -> Path:
    path = Path(path).expanduser()
    if not path.exists():
        raise CheckpointError(f"checkpoint {path} does not exist")
    if path.is_dir():
        raise CheckpointError(f"checkpoint {path} is a directory, not a file")
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} is not a regular file")
    return path


def _load(file: BinaryIO, size: int, name: str) -> dict:
    try:
        loaded = read(file, size)
    except Refused as error:
        wanted = str(error)
        if not re.fullmatch(r"[\w.(), ']{1,80}", wanted, re.ASCII):
            wanted = ascii(wanted)[:80]
        raise CheckpointError(
            f"checkpoint {name} was refused and nothing in it was run: it asks for {wanted}, "
            "which no checkpoint of weights needs and which could run code"
        ) from error
    except PARSE_ERRORS as error:
        reason = " ".join(ascii(str(error) or type(error).__name__).strip("'\"").split())[:200]
        raise CheckpointError(
            f"checkpoint {name} cannot be read, it is damaged or no checkpoint: {reason}"
        ) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(
            f"checkpoint {name} holds a {type(loaded).__name__} where a dict of weights is expected"
        )
    return loaded


def weights_of(checkpoint: dict, name: str, key: str = "state_dict") -> OrderedDict:
    """The weights in a checkpoint, or of a file that holds nothing else.

    The prefix that DistributedDataParallel gives their names is taken off.

    Raises:
        CheckpointError: there is something else than tensors by name.
    """
    state = checkpoint.get(key, checkpoint if key == "state_dict" else {})
    names = ", ".join(ascii(entry) for entry in list(checkpoint)[:5])
    if not isinstance(state, dict) or not all(isinstance(entry, str) for entry in state):
        raise CheckpointError(f"checkpoint {name} holds no weights by name, but {names}")
    for entry, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"checkpoint {name} holds no weights at its top or under '{key}', where "
                f"{ascii(entry)[:80]} is a {type(value).__name__}; its entries are: {names}"
            )
    weights = OrderedDict((entry.removeprefix("module."), value) for entry, value in state.items())
    # What modules say of themselves: how old the names below them are.
    weights._metadata = getattr(state, "_metadata", OrderedDict())
    return weights


def load_weights(
    model: nn.Module, checkpoint: dict, name: str, *, partly: bool = False, logger: Any = "current"
) -> None:
    """Load a checkpoint into a model that it fits.

    Whether it fits is what ``load_state_dict`` says, after the model's modules have translated
    older names and layouts: every parameter and buffer of the model is in it, with its shape.

    Args:
        model: may be wrapped for several GPUs or for test-time augmentation.
        checkpoint: what the file holds.
        name: the file's name, for messages.
        partly: let some be missing, as in fine-tuning with another number of classes; which ones
            is logged.
        logger: where to.

    Raises:
        CheckpointError: the checkpoint does not fit.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    weights = weights_of(checkpoint, name)
    shapes = {entry: value.shape for entry, value in model.state_dict().items()}
    _check_kinds(model.state_dict(), weights, name)
    other_shape: list[str] = []
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        other_shape = [
            entry for entry in weights if entry in shapes and shapes[entry] != weights[entry].shape
        ]
        for entry in other_shape:
            del weights[entry]
        try:
            missing, unexpected = model.load_state_dict(weights, strict=False)
        except RuntimeError:
            reason = (str(error).splitlines()[1:] or [str(error)])[0].strip()
            raise CheckpointError(f"checkpoint {name} does not fit this model: {reason}") from error
    # Batch normalization counted no batches in PyTorch before 0.4.1.
    left = [entry for entry in missing if not entry.endswith("num_batches_tracked")]
    needed = [entry for entry in shapes if not entry.endswith("num_batches_tracked")]
    if left and (len(left) == len(needed) or not partly):
        raise CheckpointError(
            f"checkpoint {name} does not fit this model: {len(left)} of its {len(needed)} "
            f"parameters and buffers are missing there or have another shape, such as {left[0]}"
        )
    said = {
        "not in it": [entry for entry in left if entry not in other_shape],
        "of another shape": other_shape,
        "of no use": unexpected,
    }
    for what, entries in said.items():
        if entries:
            listed = ", ".join(map(ascii, entries))
            print_log(f"checkpoint {name}, {what}: {listed}", logger, logging.WARNING)


def _check_kinds(own: dict, weights: dict, name: str) -> None:
    """Refuse integers or complex numbers for a model's real ones, and the reverse.

    PyTorch copies them, and drops what does not fit. Another precision is fine.
    """
    for entry, value in weights.items():
        mine = own.get(entry)
        if mine is not None and (value.is_floating_point(), value.is_complex()) != (
            mine.is_floating_point(),
            mine.is_complex(),
        ):
            raise CheckpointError(
                f"checkpoint {name} does not fit this model: {entry!a} is {value.dtype} "
                f"there and {mine.dtype} here"
            )


def install_safe_loading() -> None:
    """Have mmengine load every checkpoint, from whatever place, without running code.

    Its loaders (local file, http, torchvision://, ...) are registered anew, for the whole process.
    Tensors come to the CPU, whatever ``map_location`` says: models copy them to where they are.
    """
    for prefixes, loader in _LOADERS.items():
        CheckpointLoader.register_scheme(prefixes, loader=loader, force=True)


def load_from_local(filename: str, map_location: Any = None) -> dict:
    return _checked(load_checkpoint_file(filename), filename)


def _checked(loaded: dict, name: str) -> dict:
    """Weights by name under ``state_dict`` or, as mmdet's backbones look there next, ``model``.

    Other files may be weights themselves, or hold them under a prefix of somebody's own.
    """
    for key in ("state_dict", "model"):
        if key in loaded:
            loaded[key] = weights_of(loaded, name, key)
            return loaded
    if not all(isinstance(entry, str) for entry in loaded):
        names = ", ".join(ascii(entry) for entry in list(loaded)[:5])
        raise CheckpointError(f"checkpoint {name} holds no weights by name, but {names}")
    return loaded


def load_from_http(filename: str, map_location: Any = None) -> dict:
    """Download into the cache of torch.hub, once for each machine."""
    name = PurePosixPath(urlparse(filename).path).name
    path = Path(torch.hub.get_dir(), "checkpoints", name)
    if name in ("", ".."):
        raise CheckpointError(f"{filename} names no file")
    try:
        if get_local_rank() == 0 and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(filename, str(path), progress=sys.stderr.isatty())
    except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
        raise CheckpointError(
            f"{filename} cannot be downloaded ({getattr(error, 'reason', error)}): download it "
            "elsewhere and give its path in place of this address; for a backbone, --cfg-options "
            "model.backbone.init_cfg.checkpoint=PATH, or model.backbone.init_cfg=None to start "
            "from random weights"
        ) from error
    finally:
        barrier()
    return _checked(load_checkpoint_file(path), filename)


def load_from_ceph(filename: str, map_location: Any = None) -> dict:
    content = get_file_backend(filename, backend_args=dict(backend="petrel")).get(filename)
    return _checked(_load(io.BytesIO(content), len(content), filename), filename)


def load_from_pavi(filename: str, map_location: Any = None) -> dict:
    raise CheckpointError(f"{filename}: checkpoints of pavi:// have to be downloaded first")


def load_from_torchvision(filename: str, map_location: Any = None) -> dict:
    if importlib.util.find_spec("torchvision"):
        listed = mmengine_checkpoint.get_torchvision_models()
    else:
        # mmengine's own list; torchvision's is longer.
        hub = Path(mmengine.__file__).parent / "hub"
        listed = mmengine.load(hub / "torchvision_0.12.json")
    return _load_listed(filename, listed)


def load_from_openmmlab(filename: str, map_location: Any = None) -> dict:
    scheme, _, name = filename.partition("://")
    name = mmengine_checkpoint.get_deprecated_model_names().get(name, name)
    listed = mmengine_checkpoint.get_external_models()
    return _load_listed(f"{scheme}://{name}", listed)


def load_from_mmcls(filename: str, map_location: Any = None) -> dict:
    """A classifier's backbone."""
    loaded = _load_listed(filename, mmengine_checkpoint.get_mmcls_models())
    weights, start = weights_of(loaded, filename), "backbone."
    names = [name for name in weights if name.startswith(start)]
    return dict(state_dict=OrderedDict((n.removeprefix(start), weights[n]) for n in names))


def _load_listed(filename: str, listed: dict[str, str]) -> dict:
    name = filename.partition("://")[2]
    if name not in listed:
        raise CheckpointError(
            f"checkpoint {filename} is in no list of such weights{did_you_mean(name, listed)}"
        )
    place = listed[name]
    if "://" not in place:  # in a list of the user's own, below mmengine's directory
        home = os.environ.get("MMENGINE_HOME") or Path(
            os.environ.get("XDG_CACHE_HOME", "~/.cache"), "mmengine"
        )
        place = str(Path(home, place))
    return CheckpointLoader.load_checkpoint(place)


_LOADERS = {
    "": load_from_local,
    ("http://", "https://"): load_from_http,
    (r"(\S+\:)?s3://", r"(\S+\:)?petrel://"): load_from_ceph,
    "pavi://": load_from_pavi,
    ("modelzoo://", "torchvision://"): load_from_torchvision,
    ("open-mmlab://", "openmmlab://"): load_from_openmmlab,
    "mmcls://": load_from_mmcls,
}
