"""What ``--resume`` does, in the order in which it happens.

1. A checkpoint is chosen (`newest_checkpoint`): the one that ``--resume CHECKPOINT`` names, else
   the one that ``last_checkpoint`` of the work dir names, else the one of the highest step there.
   Damaged ones are passed over with a message. Without any the run starts from its beginning.
2. It is read once, as data (checkpoint.py): nothing in it runs.
3. It says where its run was (`read_position`): epoch, iteration and seed, which is kept. A run that
   has gone further than the config wants is an error (`check_what_is_left`).
4. The data continue there (seeding.py): the batches that were trained on are skipped without being
   loaded, and each sample and iteration draws what it would have drawn in an unkilled run.
5. Weights are taken if all of the model are there and fit (`weights.load_weights`); averages of
   weights in the checkpoint must fit too (`weights.check_averages`).
6. What else is taken (`restore`): position, history of the logged scalars, best scores, optimizer,
   parameter schedulers. Of the last two only numbers and tensors, by the names and in the form
   that this run has. So what a scheduler has as a number (T_max, end, gamma, total_iters) is the
   checkpoint's; paths, text, booleans and milestones stay those of this run. An optimizer that
   cannot take a step with its state is an error.

Only one run at a time trains in a work dir (lock.py). Without ``--resume`` one that holds
checkpoints is refused.

Everything in a checkpoint is data that somebody else may have written. (mmengine's ``resume`` runs
the text ``meta['config']`` as a program, and trusts paths to delete and attributes of schedulers.)
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer, print_log
from mmengine.optim import OptimWrapperDict
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner

from mmdysample.engine.checkpoint import (
    CheckpointError,
    check_checkpoint_file,
    load_checkpoint,
    load_checkpoint_file,
)
from mmdysample.engine.errors import is_rank_zero
from mmdysample.engine.unpickler import is_count
from mmdysample.errors import UserError

_LARGEST = dict(epoch=2**31 - 1, iter=2**31 - 1, seed=2**32 - 1)


def plan_resume(cfg: Config, resume: str | None) -> dict | None:
    """Write into ``cfg`` what ``--resume`` means, and read the checkpoint that is continued from.

    Args:
        cfg: config with its work_dir.
        resume: None (the config decides), ``'auto'`` for the newest checkpoint of the work dir, or
            a checkpoint's path.

    Returns:
        what the checkpoint of ``cfg.load_from`` holds; None if the run is not a resumed one.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, or not one of a training run.
        UserError: a run that starts from scratch would replace checkpoints of an earlier one.
    """
    if resume is not None:
        cfg.resume = True
    if not cfg.get("resume"):
        if cfg.get("load_from") and "://" not in cfg.load_from:
            check_checkpoint_file(cfg.load_from)
        _check_no_earlier_run(cfg)
        return None
    named = cfg.get("load_from") if resume is None else resume
    if named in (None, "auto"):
        path, checkpoint = newest_checkpoint(cfg)
    else:
        path, checkpoint = named, load_checkpoint(named)
    if path is None:
        cfg.resume = False
        _say(f"--resume: no checkpoint in {cfg.work_dir}, so the run starts from its beginning")
        return None
    position = read_position(checkpoint, path)
    cfg.load_from = path
    _say(f"--resume: from {path} (epoch {position.epoch}, iteration {position.iteration})")
    if position.seed is not None:
        _keep_seed(cfg, position.seed)
    return checkpoint


def _check_no_earlier_run(cfg: Config) -> None:
    directory, steps = checkpoints_of(cfg)
    if steps:
        raise UserError(
            f"{directory} holds {min(steps)} of an earlier run: --resume continues that run; to "
            "start from scratch choose another --work-dir, or remove the earlier checkpoints"
        )


def _keep_seed(cfg: Config, seed: int) -> None:
    randomness = dict(cfg.get("randomness") or {})
    configured = randomness.get("seed")
    if configured not in (None, seed):
        _say(f"--resume: seed {seed} of the checkpoint is used, not the config's {configured}")
    cfg.randomness = {**randomness, "seed": seed}


def newest_checkpoint(cfg: Config) -> tuple[str, dict] | tuple[None, None]:
    """Path and contents of the newest whole checkpoint of a run, or None if it has none.

    Raises:
        CheckpointError: there are checkpoints, but no whole one.
    """
    directory, steps = checkpoints_of(cfg)
    candidates = sorted(steps, key=steps.__getitem__, reverse=True)
    note = Path(cfg.work_dir) / "last_checkpoint"
    if note.is_file():
        # Of the path in it the name counts: the work dir may be a copy.
        noted = PurePath(note.read_bytes()[:4096].decode(errors="replace").strip()).name
        candidates.sort(key=lambda name: name != noted)
    for name in candidates:
        try:
            return str(directory / name), load_checkpoint_file(directory / name)
        except CheckpointError as error:
            _say(f"--resume: passed over, {error}")
    if candidates:
        raise CheckpointError(f"none of the checkpoints in {directory} can be read")
    return None, None


def checkpoints_of(cfg: Config) -> tuple[Path, dict[str, int]]:
    """Where the config's hook writes checkpoints, and the names of those there with their steps."""
    hook = cfg.get("default_hooks", {}).get("checkpoint") or {}
    template = hook.get("filename_tmpl") or (
        "epoch_{}.pth" if hook.get("by_epoch", True) else "iter_{}.pth"
    )
    directory = Path(os.path.abspath(cfg.work_dir))
    out_dir = Path(os.path.abspath(hook.get("out_dir") or directory))
    if out_dir != directory:
        directory = out_dir / directory.name
    pattern = name_pattern(template)
    matches = [pattern.fullmatch(path.name) for path in directory.glob("*") if path.is_file()]
    return directory, {match[0]: int(match[1]) for match in matches if match}


def name_pattern(template: str, before: str = "") -> re.Pattern:
    """What matches the names that a checkpoint hook makes, with the step as its group."""
    pattern = re.escape(before + template).replace(re.escape("{}"), r"(\d{1,18})", 1)
    return re.compile(pattern, re.ASCII)


def can_continue(cfg: Config) -> bool:
    """Whether a run that was stopped has a checkpoint to continue from."""
    return bool(cfg.get("resume") or checkpoints_of(cfg)[1])


class Position(NamedTuple):
    """How far a run had come when a checkpoint was written."""

    epoch: int
    iteration: int
    seed: int | None
    #: iterations done of an epoch that was not finished
    iterations_into_epoch: int


def read_position(checkpoint: dict, name: str) -> Position:
    """How far the run of a checkpoint had come.

    Raises:
        CheckpointError: it does not say, or in other than whole numbers of a sensible size.
    """
    meta = checkpoint.get("meta")
    if not isinstance(meta, dict) or "epoch" not in meta or "optimizer" not in checkpoint:
        raise CheckpointError(
            f"checkpoint {name} does not say how far its run had come or holds no optimizer state: "
            "it can be used with --cfg-options load_from=..., not with --resume"
        )
    for key, largest in _LARGEST.items():
        value = meta.get(key)
        if key == "seed" and value is None:
            continue
        if not is_count(value) or value > largest:
            raise CheckpointError(
                f"checkpoint {name}: its meta[{key!r}] is {ascii(value)[:40]}, where a whole "
                f"number from 0 to {largest} is expected"
            )
    info = _messages(checkpoint, "runtime_info")
    epochs, iterations = info.get("max_epochs"), info.get("max_iters")
    into_epoch = 0
    if is_count(epochs) and is_count(iterations) and epochs > 0:
        into_epoch = max(0, meta["iter"] - meta["epoch"] * (iterations // epochs))
    return Position(meta["epoch"], meta["iter"], meta.get("seed"), into_epoch)


def check_what_is_left(loop: BaseLoop, position: Position, name: str) -> None:
    """Say that a resumed run is complete; UserError if it has gone further than the config."""
    if isinstance(loop, IterBasedTrainLoop):
        done, wanted, unit = position.iteration, loop.max_iters, "iters"
    else:
        done, wanted, unit = position.epoch, loop.max_epochs, "epochs"
    if done > wanted:
        raise UserError(
            f"checkpoint {name} has {done} {unit} behind it, and the config's max_{unit} is "
            f"{wanted}: raise it to train on"
        )
    if done == wanted:
        loop.runner.logger.info(
            f"--resume: all {done} {unit} of the run are done, so nothing is left to train on; "
            f"raise max_{unit} to go on"
        )


def restore(runner: Runner, checkpoint: dict, name: str) -> None:
    """Put a run where the one of a checkpoint was; its model has the weights already.

    Raises:
        CheckpointError: something in it does not fit the run, such as another optimizer.
    """
    position = read_position(checkpoint, name)
    runner.train_loop._epoch, runner.train_loop._iter = position.epoch, position.iteration
    _restore_messages(runner, checkpoint)
    try:
        _restore_optimizer(runner.optim_wrapper, checkpoint["optimizer"], "optimizer")
        if runner.param_schedulers is not None and "param_schedulers" in checkpoint:
            saved = checkpoint["param_schedulers"]
            _restore_schedulers(runner.param_schedulers, saved, "param_schedulers")
    except _MismatchError as error:
        raise CheckpointError(
            f"checkpoint {name} was written with another model, optimizer or parameter schedulers "
            f"than the config's: {error}; to train from its weights alone, use load_from"
        ) from error


def _restore_messages(runner: Runner, checkpoint: dict) -> None:
    """Take the history of what was logged, and the best scores."""
    scalars = {
        key: value
        for key, value in _messages(checkpoint, "log_scalars").items()
        # mmengine gives the latest value of each, which an empty one does not have.
        if isinstance(key, str) and isinstance(value, HistoryBuffer) and len(value.data[0])
    }
    scores = {
        key: float(value)
        for key, value in _messages(checkpoint, "runtime_info").items()
        if isinstance(key, str)
        and key.startswith("best_score")
        and isinstance(value, (int, float, np.number))
    }
    resumed = dict.fromkeys([*scalars, *scores], True)
    runner.message_hub.load_state_dict(
        dict(log_scalars=scalars, runtime_info=scores, resumed_keys=resumed)
    )


def _messages(checkpoint: dict, part: str) -> dict:
    """A part of what mmengine's message hub held; an empty one if there is none."""
    hub = checkpoint.get("message_hub")
    messages = hub.get(part) if isinstance(hub, dict) else None
    return messages if isinstance(messages, dict) else {}


class _MismatchError(Exception):
    """Where in a checkpoint there is something else than in this run, and what."""


def _require(condition: bool, where: str) -> None:
    if not condition:
        raise _MismatchError(f"{where} is missing in it or of another kind")


def _restore_optimizer(wrapper: Any, saved: Any, where: str) -> None:
    _require(isinstance(saved, dict), where)
    if isinstance(wrapper, OptimWrapperDict):
        for key, inner in wrapper.items():
            _restore_optimizer(inner, saved.get(key), f"{where}.{key}")
        return
    # Optional state, such as a loss scaler's, may be absent.
    needed = ("param_groups", *saved)
    built = {key: value for key, value in wrapper.state_dict().items() if key in needed}
    state = _with_saved_values(saved, {**built, "state": None}, where)
    state["state"] = saved.get("state")
    parameters = range(sum(len(group["params"]) for group in built["param_groups"]))
    _require(_is_state_of(parameters, state["state"]), f"{where}.state")
    try:
        _take_a_step(wrapper.optimizer, state)
        wrapper.load_state_dict(state)
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        # Whatever else it raises is about the state.
        reason = f"{type(error).__name__}: {ascii(str(error))[:80]}"
        raise _MismatchError(f"a step with {where}.state fails, {reason}") from error


def _is_state_of(parameters: range, state: Any) -> bool:
    """Whether it has the form of what an optimizer remembers: a dict for each parameter or some."""
    return isinstance(state, dict) and all(
        key in parameters and isinstance(value, dict) for key, value in state.items()
    )


def _take_a_step(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Have a copy of an optimizer of PyTorch take a step with a state and gradients of zero.

    Optimizers of other packages, which may not be made for copying, are not tried.
    """
    if not type(optimizer).__module__.startswith("torch.optim."):
        return
    trial = copy.deepcopy(optimizer)
    trial.load_state_dict(copy.deepcopy(state))
    for group in trial.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    trial.step()


def _restore_schedulers(schedulers: Any, saved: Any, where: str) -> None:
    if isinstance(schedulers, Mapping):
        _require(isinstance(saved, dict), where)
        for key, inner in schedulers.items():
            _restore_schedulers(inner, saved.get(key), f"{where}.{key}")
        return
    states = _with_saved_values(saved, [scheduler.state_dict() for scheduler in schedulers], where)
    for scheduler, state in zip(schedulers, states, strict=True):
        scheduler.load_state_dict(state)


def _with_saved_values(saved: Any, built: Any, where: str) -> Any:
    """What this run has built, with the numbers and tensors that were saved in their places."""
    if type(built) is dict:
        _require(isinstance(saved, dict), where)
        return {
            key: _with_saved_values(saved.get(key), own, f"{where}.{key}")
            for key, own in built.items()
        }
    if isinstance(built, (list, tuple)):
        _require(isinstance(saved, (list, tuple)) and len(saved) == len(built), where)
        pairs = zip(saved, built, strict=True)
        return type(built)(
            _with_saved_values(v, own, f"{where}.{n}") for n, (v, own) in enumerate(pairs)
        )
    if isinstance(built, torch.Tensor):
        _require(isinstance(saved, torch.Tensor) and saved.shape == built.shape, where)
        return saved
    if isinstance(built, (int, float)) and not isinstance(built, bool):
        _require(isinstance(saved, (int, float)) and not isinstance(saved, bool), where)
        return saved
    return built


def _say(message: str) -> None:
    # The run's own logger does not exist yet.
    if is_rank_zero():
        print_log(message)
