"""The weights in a checkpoint, and the one rule by which they fit a model."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn

from mmdysample.errors import UserError


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, refused or made for something else."""


def load_weights(
    model: nn.Module, checkpoint: dict, name: str, *, partly: bool = False, logger: Any = "current"
) -> None:
    """Load a checkpoint into a model that it fits.

    It fits if every parameter and buffer of the model is in it, with its shape and kind of number,
    after the model's modules have translated older names and layouts.

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
    model = _unwrapped(model)
    own, weights = model.state_dict(), weights_of(checkpoint, name)
    for entry, value in weights.items():
        if entry in own and _kind(value) != _kind(own[entry]):
            raise CheckpointError(
                f"checkpoint {name} does not fit this model: {entry!a} is {value.dtype} "
                f"there and {own[entry].dtype} here"
            )
    missing, unexpected, other_shape = _load_what_fits(model, weights, name)
    # Batch normalization counted no batches in PyTorch before 0.4.1.
    left = [entry for entry in missing if not entry.endswith("num_batches_tracked")]
    needed = [entry for entry in own if not entry.endswith("num_batches_tracked")]
    if left and (len(left) == len(needed) or not partly):
        raise CheckpointError(
            f"checkpoint {name} does not fit this model: {len(left)} of its {len(needed)} "
            f"parameters and buffers are missing there or have another shape, such as {left[0]}"
        )
    report = {
        "not in it": [entry for entry in left if entry not in other_shape],
        "of another shape": other_shape,
        "unused": unexpected,
    }
    for what, entries in report.items():
        if entries:
            listed = ", ".join(map(ascii, entries))
            print_log(f"checkpoint {name}, {what}: {listed}", logger, logging.WARNING)


def check_averages(model: nn.Module, checkpoint: dict, name: str) -> None:
    """Raise CheckpointError unless what EMAHook resumes, if it is there, fits the model.

    The hook swaps each tensor under ``ema_state_dict`` with the one of its name in the weights.
    """
    own, weights = _unwrapped(model).state_dict(), weights_of(checkpoint, name)
    for entry, value in weights_of(checkpoint, name, "ema_state_dict").items():
        if entry == "steps":  # how often it has averaged
            fits = value.shape == ()
        else:
            shapes = {each[entry].shape for each in (own, weights) if entry in each}
            fits = entry in weights and shapes == {value.shape}
        if not fits:
            raise CheckpointError(
                f"checkpoint {name} does not fit this model: {entry!a} of its ema_state_dict has "
                "another shape, or is not among its weights"
            )


def _unwrapped(model: nn.Module) -> nn.Module:
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _kind(value: torch.Tensor) -> tuple[bool, bool]:
    """PyTorch copies numbers of one kind to another, and drops what does not fit."""
    return value.is_floating_point(), value.is_complex()


def _load_what_fits(
    model: nn.Module, weights: OrderedDict, name: str
) -> tuple[list[str], list[str], list[str]]:
    """Load weights, and name those that are missing, unexpected, and of another shape.

    Shapes are compared only where loading fails, because modules translate older layouts in it.
    """
    shapes = {entry: value.shape for entry, value in model.state_dict().items()}
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
        return missing, unexpected, []
    except RuntimeError as error:
        other = [entry for entry, v in weights.items() if v.shape != shapes.get(entry, v.shape)]
        if not other:
            reason = (str(error).splitlines()[1:] or [str(error)])[0].strip()
            raise CheckpointError(f"checkpoint {name} does not fit this model: {reason}") from error
    for entry in other:
        del weights[entry]
    missing, unexpected, _ = _load_what_fits(model, weights, name)
    return missing, unexpected, other


def weights_of(checkpoint: dict, name: str, key: str = "state_dict") -> OrderedDict:
    """The weights in a checkpoint, or of a file that holds nothing else.

    The prefix that DistributedDataParallel gives their names is taken off.

    Raises:
        CheckpointError: there is something else than tensors by name.
    """
    state = checkpoint.get(key, checkpoint if key == "state_dict" else {})
    check_names(state, checkpoint, name)
    for entry, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"checkpoint {name} holds no weights at its top or under '{key}', where "
                f"{ascii(entry)[:80]} is a {type(value).__name__}; its entries are: "
                f"{_entries(checkpoint)}"
            )
    weights = OrderedDict((entry.removeprefix("module."), value) for entry, value in state.items())
    # What modules say of themselves: how old the names below them are.
    weights._metadata = getattr(state, "_metadata", OrderedDict())
    return weights


def check_names(state: Any, checkpoint: dict, name: str) -> None:
    """Raise CheckpointError unless ``state``, a part of the checkpoint, is a dict by names."""
    if not isinstance(state, dict) or not all(isinstance(entry, str) for entry in state):
        raise CheckpointError(
            f"checkpoint {name} holds no weights by name, but {_entries(checkpoint)}"
        )


def _entries(checkpoint: dict) -> str:
    return ", ".join(ascii(entry) for entry in list(checkpoint)[:5])
