"""What a command line and the machine change in a config."""

from __future__ import annotations

import contextlib
import os
import traceback
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.device import get_device
from mmengine.logging import print_log

from mmdysample.engine.checks import (
    check_checkpoint_names,
    check_lists,
    check_top_level,
    check_whole_numbers,
)
from mmdysample.engine.distributed import (
    check_launcher,
    end_with_launcher,
    start_on_cpu,
)
from mmdysample.engine.outputs import check_outside_data
from mmdysample.errors import UserError

# mmengine looks up `package::` in a list of OpenMMLab's packages: let configs build on ours too.
MODULE2PACKAGE.setdefault("mmdysample", "mmdysample")

NEEDED_TO_TRAIN = ("model", "train_dataloader", "train_cfg", "optim_wrapper")
NEEDED_TO_TEST = ("model", "test_dataloader", "test_cfg", "test_evaluator")


def load_config(path: str, options: dict[str, Any] | None, needed: tuple[str, ...]) -> Config:
    """Read a config file and merge ``--cfg-options`` into it.

    Raises:
        UserError: the file is missing, fails to run, lacks one of ``needed``, or does not have a
            place that an option names.
    """
    if not os.path.isfile(path):
        what = "is a directory, not a file" if os.path.isdir(path) else "does not exist"
        raise UserError(f"config {path} {what}")
    try:
        cfg = Config.fromfile(path)
    except RecursionError as error:
        raise UserError(
            f"config {path} cannot be read: what it is based on (`_base_`) leads back to it, "
            "or what it computes does not end"
        ) from error
    except Exception as error:
        # A config is the user's program: whatever it raises is about it.
        if isinstance(error, TypeError):
            with contextlib.suppress(TypeError):  # that one again, where it is not about a list
                check_lists(path)
        raise UserError(f"config {path} cannot be read: {_reason(error, path)}") from error
    check_top_level(cfg, options or ())
    for key, value in (options or {}).items():
        try:
            cfg.merge_from_dict({key: value})
        except (KeyError, TypeError, AttributeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"--cfg-options {key}={value} does not fit {path}: {reason}") from error
    missing = [name for name in needed if cfg.get(name) is None]
    if missing:
        raise UserError(f"config {path} does not set {', '.join(missing)}")
    check_whole_numbers(cfg)
    check_checkpoint_names(cfg)
    # Without what a config imports, which no file that a run writes of it could hold.
    values = {key: cfg[key] for key in cfg.to_dict()}
    # `Config.fromfile` forgets this argument. Laying out the text again with each checkpoint takes
    # half the time of a short run, and yapf makes an error of an interrupt.
    return Config(values, cfg.text, cfg.filename, cfg.env_variables, format_python_code=False)


def _reason(error: Exception, path: str) -> str:
    """What went wrong in a config, and in which of its lines."""
    # mmengine's own text about a failed import does not say what was missing.
    while isinstance(error, ImportError) and isinstance(error.__context__, ImportError):
        error = error.__context__
    calls = traceback.extract_tb(error.__traceback__)
    lines = [call.lineno for call in calls if call.filename == os.path.abspath(path)]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    where = f"line {lines[-1]}: " if lines else ""
    text = next(iter(str(error).strip().splitlines()), "")
    return f"{where}{type(error).__name__}: {text}"


def set_work_dir(cfg: Config, work_dir: str | None, config_path: str) -> None:
    """Work dir: command line, else config, else ``./work_dirs/<config's name>``; it is made.

    Raises:
        UserError: it is among the data of the config, or cannot be written to.
    """
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = os.path.join("./work_dirs", Path(config_path).stem)
    check_outside_data(cfg.work_dir, "work dir", cfg)
    _check_config_is_kept(config_path, cfg.work_dir)
    try:
        os.makedirs(cfg.work_dir, exist_ok=True)
        writable = os.access(cfg.work_dir, os.W_OK | os.X_OK)
    except OSError as error:
        reason = os.strerror(error.errno).lower()
        raise UserError(f"work dir {cfg.work_dir} cannot be made: {reason}") from error
    if not writable:
        raise UserError(f"work dir {cfg.work_dir} is not writable")


def _check_config_is_kept(config_path: str, work_dir: str) -> None:
    """Raise UserError if the run's copy of its config would take the config's own place.

    It may in the work dir of an earlier run, where the config is such a copy itself.
    """
    copy = Path(work_dir, Path(config_path).name)
    if not copy.exists() or not os.path.samefile(copy, config_path):
        return
    if not any(Path(work_dir).glob("*/vis_data/config.py")):
        raise UserError(
            f"work dir {work_dir} is the directory of the config, which the copy of the config "
            "that a run writes would replace: choose another --work-dir"
        )


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
    # mmengine wraps the model for one GPU per process unless it is told otherwise.
    cfg.model_wrapper_cfg = {
        "type": "MMDistributedDataParallel",
        "broadcast_buffers": False,
        "find_unused_parameters": cfg.get("find_unused_parameters", False),
        **(cfg.get("model_wrapper_cfg") or {}),
        "device_ids": None,
    }
    start_on_cpu(cfg)
