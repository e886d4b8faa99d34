"""What a resumed run takes from its checkpoint: numbers and tensors of the kinds that it has.

Everything in a checkpoint is data that somebody else may have written. mmengine's ``resume`` runs
the text ``meta['config']`` as a program, and takes the paths of files to be deleted and attributes
of schedulers as they come. Here each value is taken by name, if it is of the kind that this run has
in its place; paths and programs are not taken at all.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner

from mmdysample.engine.checkpoint import CheckpointError

_LARGEST = 2**31 - 1
_LARGEST_SEED = 2**32 - 1
_MOMENTS = frozenset(("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"))
# What each parameter's state must hold; any other optimizer's is not looked into.
_NEEDED = {
    torch.optim.SGD: frozenset(),
    torch.optim.Adam: frozenset(("step", "exp_avg", "exp_avg_sq")),
    torch.optim.AdamW: frozenset(("step", "exp_avg", "exp_avg_sq")),
}


class Position(NamedTuple):
    """How far a run had come when a checkpoint was written."""

    epoch: int
    iteration: int
    seed: int | None
    #: iterations of an epoch, None if the checkpoint does not say
    epoch_length: int | None

    @property
    def iterations_into_epoch(self) -> int:
        """Iterations done of an epoch that was not finished."""
        if self.epoch_length is None:
            return 0
        return max(0, self.iteration - self.epoch * self.epoch_length)


def read_position(checkpoint: dict, name: str) -> Position:
    """How far the run of a checkpoint had come; CheckpointError if it tells nothing."""
    meta = checkpoint.get("meta")
    if not isinstance(meta, dict) or not {"epoch", "iter"} <= meta.keys():
        raise CheckpointError(
            f"checkpoint {name} does not say how far its run had come: it can be used with "
            "--cfg-options load_from=..., not with --resume"
        )
    if "optimizer" not in checkpoint:
        raise CheckpointError(
            f"checkpoint {name} holds no optimizer state: it can be used with "
            "--cfg-options load_from=..., not with --resume"
        )
    for key, largest in (("epoch", _LARGEST), ("iter", _LARGEST), ("seed", _LARGEST_SEED)):
        if not _is_count(meta.get(key), largest) and not (key == "seed" and meta.get(key) is None):
            raise CheckpointError(
                f"checkpoint {name}: its meta[{key!r}] is {ascii(meta.get(key))[:40]}, where a "
                f"whole number from 0 to {largest} is expected"
            )
    info = _table(checkpoint, name, "message_hub", "runtime_info")
    epochs, iterations = info.get("max_epochs"), info.get("max_iters")
    counted = _is_count(epochs) and _is_count(iterations) and epochs > 0
    return Position(
        epoch=meta["epoch"],
        iteration=meta["iter"],
        seed=meta.get("seed"),
        epoch_length=iterations // epochs if counted else None,
    )


def restore(runner: Runner, checkpoint: dict, name: str) -> None:
    """Put a run where the one of a checkpoint was; its model has the weights already.

    Raises:
        CheckpointError: something in it does not fit the run, such as another optimizer.
    """
    position = read_position(checkpoint, name)
    runner.train_loop._epoch, runner.train_loop._iter = position.epoch, position.iteration
    _warn_of_other_classes(runner, checkpoint)

    scalars = _table(checkpoint, name, "message_hub", "log_scalars")
    scalars = {
        key: value
        for key, value in scalars.items()
        # mmengine gives the latest value of each, which an empty one does not have.
        if isinstance(key, str) and isinstance(value, HistoryBuffer) and len(value.data[0])
    }
    info = _table(checkpoint, name, "message_hub", "runtime_info")
    scores = {
        key: _number(value)
        for key, value in info.items()
        if isinstance(key, str) and key.startswith("best_score") and _number(value) is not None
    }
    resumed = dict.fromkeys([*scalars, *scores], True)
    runner.message_hub.load_state_dict(
        dict(log_scalars=scalars, runtime_info=scores, resumed_keys=resumed)
    )
    _restore_optimizer(runner.optim_wrapper, checkpoint.get("optimizer"), name)
    if runner.param_schedulers is not None and "param_schedulers" in checkpoint:
        _restore_schedulers(runner.param_schedulers, checkpoint["param_schedulers"], name)


def _warn_of_other_classes(runner: Runner, checkpoint: dict) -> None:
    meta = checkpoint["meta"].get("dataset_meta")
    before = meta.get("classes") if isinstance(meta, dict) else None
    now = getattr(runner.train_dataloader.dataset, "metainfo", {}).get("classes")
    if not isinstance(before, (list, tuple)) or not all(isinstance(n, str) for n in before):
        return
    if now and list(before) != list(now):
        runner.logger.warning("The classes of the data set are not those of the checkpoint's run.")


def _restore_optimizer(wrapper: Any, saved: Any, name: str) -> None:
    if isinstance(wrapper, OptimWrapperDict):
        for key, inner in wrapper.items():
            _restore_optimizer(inner, saved.get(key) if isinstance(saved, dict) else None, name)
        return
    optimizer = wrapper.optimizer if isinstance(wrapper, OptimWrapper) else wrapper
    built = wrapper.state_dict()
    try:
        _need(isinstance(saved, dict) and isinstance(saved.get("state"), dict), "optimizer")
        settings = _taken(saved, {k: v for k, v in built.items() if k != "state"}, "optimizer")
        settings["state"] = _moments(saved["state"], optimizer, "optimizer.state")
        for group in settings["param_groups"]:
            _need(all(0 <= beta < 1 for beta in group.get("betas", ())), "optimizer.betas")
    except _OtherKind as error:
        raise CheckpointError(
            f"checkpoint {name} was written with another optimizer or model than the config's, "
            f"whose optimizer is {type(optimizer).__name__}: {error} is missing in it or of "
            "another kind; to train from its weights alone, use load_from"
        ) from error
    wrapper.load_state_dict(settings)


def _restore_schedulers(schedulers: Any, saved: Any, name: str) -> None:
    if isinstance(schedulers, dict):
        for key, inner in schedulers.items():
            _restore_schedulers(inner, saved.get(key) if isinstance(saved, dict) else None, name)
        return
    kinds = ", ".join(type(scheduler).__name__ for scheduler in schedulers)
    try:
        _need(isinstance(saved, list) and len(saved) == len(schedulers), "param_schedulers")
        states = [
            _taken(state, scheduler.state_dict(), f"param_schedulers.{number}")
            for number, (scheduler, state) in enumerate(zip(schedulers, saved, strict=True))
        ]
    except _OtherKind as error:
        raise CheckpointError(
            f"checkpoint {name} was written with other parameter schedulers than the config's "
            f"({kinds}): {error} is missing in it or of another kind; to train from its weights "
            "alone, use load_from"
        ) from error
    for scheduler, state in zip(schedulers, states, strict=True):
        scheduler.load_state_dict(state)


class _OtherKind(Exception):
    """Where in a checkpoint there is something else than in this run."""


def _need(condition: bool, where: str) -> None:
    if not condition:
        raise _OtherKind(where)


def _taken(saved: Any, built: Any, where: str) -> Any:
    """A value like ``built``, what this run has, with the numbers that were saved."""
    if isinstance(built, torch.Tensor):
        _need(isinstance(saved, torch.Tensor) and saved.shape == built.shape, where)
        return saved
    if isinstance(built, Counter):
        _need(isinstance(saved, Counter), where)
        _need(all(map(_is_count, (*saved.keys(), *saved.values()))), where)
        return saved
    if isinstance(built, dict):
        _need(isinstance(saved, dict), where)
        if "params" in built:  # of as many parameters, in the same order
            params = saved.get("params")
            _need(isinstance(params, (list, torch.Tensor)), f"{where}.params")
            _need(len(params) == len(built["params"]), f"{where}.params")
            saved = {**saved, "params": built["params"]}
        # What may be missing is of a newer version, or was of no use so far (a loss scaler).
        optional = (bool, dict, str, type(None))
        return {
            key: value
            if key not in saved and isinstance(value, optional)
            else _taken(saved.get(key), value, f"{where}.{key}")
            for key, value in built.items()
        }
    if isinstance(built, (list, tuple)):
        _need(isinstance(saved, (list, tuple)) and len(saved) == len(built), where)
        return type(built)(
            _taken(value, own, f"{where}.{number}")
            for number, (value, own) in enumerate(zip(saved, built, strict=True))
        )
    if isinstance(built, (int, float)) and not isinstance(built, bool):
        _need(isinstance(saved, (int, float)) and not isinstance(saved, bool), where)
        # Arithmetic with larger whole numbers may overflow.
        _need(isinstance(saved, float) or abs(saved) <= _LARGEST, where)
        return saved
    # Switches are the config's.
    return built


def _moments(state: dict, optimizer: torch.optim.Optimizer, where: str) -> dict:
    """Each parameter's state, of a known optimizer what it needs and by its shape."""
    parameters = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    known = type(optimizer) in _NEEDED
    taken = {}
    for number, values in state.items():
        place = f"{where}.{ascii(number)[:20]}"
        _need(_is_count(number) and number < len(parameters), place)
        _need(isinstance(values, dict) and all(isinstance(key, str) for key in values), place)
        parameter, group = parameters[number]
        needed = set(_NEEDED.get(type(optimizer), ()))
        if group.get("amsgrad"):
            needed.add("max_exp_avg_sq")
        names = needed | (_MOMENTS & values.keys()) if known else values.keys()
        for key in names:
            _need(_is_moment(key, values.get(key), parameter, key in needed), f"{place}.{key}")
        taken[number] = {key: values[key] for key in names}
    return taken


def _is_moment(key: str, value: Any, parameter: torch.Tensor, needed: bool) -> bool:
    if key in _MOMENTS and isinstance(value, torch.Tensor):
        return value.shape == parameter.shape
    number = not isinstance(value, torch.Tensor) or value.dtype.is_floating_point
    if key == "step":
        return number and _number(value) is not None
    if value is None or key in _MOMENTS:
        return value is None and not needed
    return isinstance(value, (torch.Tensor, int, float))


def _table(checkpoint: dict, name: str, *keys: str) -> dict:
    """A dict inside of a checkpoint; an empty one if it is not there."""
    found: Any = checkpoint
    for key in keys:
        found = found.get(key, {})
        if not isinstance(found, dict):
            raise CheckpointError(
                f"checkpoint {name}: its {'.'.join(keys)} is a {type(found).__name__}, where a "
                "dict is expected"
            )
    return found


def _is_count(value: Any, largest: int = _LARGEST) -> bool:
    return type(value) is int and 0 <= value <= largest


def _number(value: Any) -> float | None:
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex():
        return float(value)
    plain = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return float(value) if plain else None
