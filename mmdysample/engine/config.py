"""What a command line and the machine change in a config."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.device import get_device
from mmengine.logging import print_log

from mmdysample.engine.distributed import (
    check_launcher,
    end_with_launcher,
    start_on_cpu,
    world_size,
)
from mmdysample.engine.errors import UserError

# mmengine looks up `package::` in a list of OpenMMLab's packages: let configs build on ours too.
MODULE2PACKAGE.setdefault("mmdysample", "mmdysample")

NEEDED_TO_TRAIN = ("model", "train_dataloader", "train_cfg", "optim_wrapper")
NEEDED_TO_TEST = ("model", "test_dataloader", "test_cfg", "test_evaluator")


class CfgOptions(DictAction):
    """``--cfg-options KEY=VALUE ...`` with an error for what has no KEY or no ``=``."""

    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            key, equals, _ = value.partition("=")
            if not equals or not key:
                parser.error(f"--cfg-options takes KEY=VALUE, got {value!r}")
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:
            parser.error(f"--cfg-options: {error}")


def load_config(path: str, options: dict[str, Any] | None, needed: tuple[str, ...]) -> Config:
    """Read a config file and merge ``--cfg-options`` into it.

    Raises:
        UserError: the file is missing, fails to run, lacks one of ``needed``, or does not have a
            place that an option names.
    """
    if not os.path.isfile(path):
        what = "is a folder, not a file" if os.path.isdir(path) else "does not exist"
        raise UserError(f"config {path} {what}")
    try:
        cfg = Config.fromfile(path)
    except Exception as error:
        # A config is the user's program: whatever it raises is about it.
        raise UserError(f"config {path} cannot be read: {_reason(error, path)}") from error
    for key, value in (options or {}).items():
        try:
            cfg.merge_from_dict({key: value})
        except (KeyError, TypeError, AttributeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"--cfg-options {key}={value} does not fit {path}: {reason}") from error
    missing = [name for name in needed if cfg.get(name) is None]
    if missing:
        raise UserError(f"config {path} does not set {', '.join(missing)}")
    check_settings(cfg)
    return cfg


def check_settings(cfg: Config) -> None:
    """Raise UserError for common settings of a wrong type or range.

    mmengine hands them on to where they fail in words that name no setting, or to where nothing
    happens.
    """
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        settings = cfg.get(loader)
        if isinstance(settings, dict) and "dataset" not in settings:
            raise UserError(
                f"{loader} of the config has no dataset, only {', '.join(settings) or 'nothing'}"
            )
    for place, (fits, accepted) in _ACCEPTED.items():
        value = _at(cfg, place)
        if value is not None and not fits(value):
            raise UserError(f"{place} in the config must be {accepted}, got {value!r}")


def _at(cfg: Config, place: str) -> Any:
    """The value of ``a.b.c``, None if there is none."""
    value: Any = cfg
    for name in place.split("."):
        value = value.get(name) if isinstance(value, (dict, Config)) else None
    return value


def _integer(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


_COUNT = (lambda value: _integer(value, 1), "a whole number of at least 1")
_COUNT_OR_NONE = (lambda value: _integer(value, 0), "a whole number of at least 0")
_LENGTH = (
    # As mmengine does, which makes it a whole number.
    lambda value: _integer(
        int(value) if isinstance(value, float) and value.is_integer() else value, 1
    ),
    _COUNT[1],
)
_SEED = (
    lambda value: _integer(value, 0) and value < 2**32,
    "a whole number of at least 0 and below 2**32",
)
_NUMBER = (_number, "a number of at least 0")
_ACCEPTED = {
    **{
        f"{part}_dataloader.{name}": accepted
        for part in ("train", "val", "test")
        for name, accepted in (("batch_size", _COUNT), ("num_workers", _COUNT_OR_NONE))
    },
    "train_cfg.max_epochs": _LENGTH,
    "train_cfg.max_iters": _LENGTH,
    "train_cfg.val_interval": _COUNT,
    "optim_wrapper.optimizer.lr": _NUMBER,
    "optim_wrapper.optimizer.weight_decay": _NUMBER,
    "randomness.seed": _SEED,
}


def _reason(error: Exception, path: str) -> str:
    # mmengine's own text about a failed import does not say what was missing.
    while isinstance(error, ImportError) and isinstance(error.__context__, ImportError):
        error = error.__context__
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if os.path.realpath(frame.filename) == os.path.realpath(path)
    ]
    where = f"line {lines[-1]}: " if lines else ""
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{where}{type(error).__name__}: {text}"


def set_work_dir(cfg: Config, work_dir: str | None, config_path: str) -> None:
    """Work dir: command line, else config, else ``./work_dirs/<config's name>``; it is made."""
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = os.path.join("./work_dirs", Path(config_path).stem)
    try:
        os.makedirs(cfg.work_dir, exist_ok=True)
        writable = os.access(cfg.work_dir, os.W_OK | os.X_OK)
    except OSError as error:
        reason = os.strerror(error.errno).lower()
        raise UserError(f"work dir {cfg.work_dir} cannot be made: {reason}") from error
    if not writable:
        raise UserError(f"work dir {cfg.work_dir} is not writable")


def enable_amp(cfg: Config) -> None:
    """Turn on mixed precision (``--amp``)."""
    kind = cfg.optim_wrapper.get("type", "OptimWrapper")
    if kind == "AmpOptimWrapper":
        print_log("--amp: mixed precision is on in the config already")
        return
    if kind != "OptimWrapper":
        raise UserError(
            f"--amp works with optim_wrapper type 'OptimWrapper', the config has {kind!r}"
        )
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.optim_wrapper.setdefault("loss_scale", "dynamic")


def enable_auto_scale_lr(cfg: Config) -> None:
    """Turn on scaling of the learning rate with the batch size (``--auto-scale-lr``)."""
    if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
        raise UserError(
            "--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config: the "
            "batch size that its learning rate is meant for"
        )
    cfg.auto_scale_lr.enable = True


def check_operators(cfg: Config) -> None:
    """Raise UserError for a detector on a GPU whose mmcv has operators for the CPU alone."""
    from mmcv.ops import get_compiling_cuda_version

    if cfg.get("default_scope") == "mmdet" and get_compiling_cuda_version() == "not available":
        raise UserError(
            "detectors on a GPU need mmcv's CUDA operators, and mmcv was built without them: "
            f"install the CUDA {torch.version.cuda} toolkit and run tools/setup_env.sh again, or "
            "set CUDA_VISIBLE_DEVICES='' to run on the CPU"
        )


def fit_to_machine(cfg: Config, launcher: str) -> None:
    """Set the launcher; without a GPU, choose what works on the CPU.

    Raises:
        UserError: the launcher did not start this process, or the config needs a GPU.
    """
    check_launcher(launcher)
    end_with_launcher()
    cfg.launcher = launcher
    # For the record: the batch is as many times that of the config.
    cfg.env_cfg = {**(cfg.get("env_cfg") or {}), "world_size": world_size(launcher)}
    if get_device() != "cpu":
        check_operators(cfg)
        return
    if "Amp" in str((cfg.get("optim_wrapper") or {}).get("type")):
        raise UserError(
            "mixed precision (--amp, AmpOptimWrapper) needs a GPU, and there is none here"
        )
    if launcher == "none":
        return
    env_cfg = cfg.get("env_cfg") or {}
    cfg.env_cfg = {**env_cfg, "dist_cfg": {**env_cfg.get("dist_cfg", {}), "backend": "gloo"}}
    # mmengine wraps the model for one GPU a process unless it is told otherwise.
    cfg.model_wrapper_cfg = {
        "type": "MMDistributedDataParallel",
        "broadcast_buffers": False,
        "find_unused_parameters": cfg.get("find_unused_parameters", False),
        **(cfg.get("model_wrapper_cfg") or {}),
        "device_ids": None,
    }
    start_on_cpu(cfg)
