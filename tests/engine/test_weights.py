"""Weights fit a model or are refused, with its every parameter and buffer."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import nullcontext

import pytest
import torch
from torch import nn

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

from mmengine.model import ExponentialMovingAverage

from mmdysample.engine.weights import CheckpointError, check_averages, load_weights


class Block(nn.Module):
    """Two layers whose parameters have names and shapes in common."""

    def __init__(self, outputs: int = 3):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, outputs)


def without(state: dict, start: str) -> dict:
    return {name: value for name, value in state.items() if not name.startswith(start)}


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        (lambda state: without(state, "second."), "2 of its 10 .* such as second.weight"),
        (lambda state: without(state, "norm.running"), "2 of its 10 .* such as norm.running_mean"),
        (lambda state: {**state, "head.bias": torch.zeros(5)}, "1 of its 10 .* such as head.bias"),
        (lambda state: {}, "10 of its 10"),
    ],
    ids=["a-layer", "statistics", "another-shape", "all"],
)
def test_what_does_not_fit(change, lost):
    """A layer of the same names and shapes elsewhere is no substitute."""
    state = change(Block().state_dict())
    with pytest.raises(CheckpointError, match=rf"x\.pth does not fit this model: {lost}"):
        load_weights(Block(), dict(state_dict=state), "x.pth", logger=None)


def test_nothing_of_a_model_is_not_a_part_of_it():
    with pytest.raises(CheckpointError, match="10 of its 10"):
        load_weights(Block(), {"other.weight": torch.zeros(1)}, "x.pth", partly=True, logger=None)


def test_what_fits(capsys):
    """Whatever wraps the names, and what the model has no use for.

    Names that could clear the terminal or hide a line of the log are printed as Python writes them.
    """
    source, model = Block(), Block()
    own = source.state_dict()
    state = OrderedDict((f"module.{name}", value) for name, value in own.items())
    state._metadata = own._metadata
    del state["module.norm.num_batches_tracked"]
    state["module.\x1b[2Jother\n"] = torch.zeros(1)
    load_weights(model, dict(state_dict=state), "x.pth", logger=None)
    loaded = zip(model.parameters(), source.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in loaded)
    assert capsys.readouterr().out == "checkpoint x.pth, unused: '\\x1b[2Jother\\n'\n"


def test_fine_tuning_with_other_classes(capsys):
    source, model = Block(3), Block(7)
    head = model.head.weight.detach().clone()
    load_weights(model, without(source.state_dict(), "second.b"), "x.pth", partly=True, logger=None)
    assert torch.equal(model.first.weight, source.first.weight)
    assert torch.equal(model.head.weight, head)
    assert capsys.readouterr().out == (
        "checkpoint x.pth, not in it: 'second.bias'\n"
        "checkpoint x.pth, of another shape: 'head.weight', 'head.bias'\n"
    )


class Translating(nn.Linear):
    """Takes weights of 1x1 convolutions, and no weights called ``old``."""

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, extra, errors):
        if f"{prefix}old" in state_dict:
            errors.append("old weights have no place here")
        if f"{prefix}weight" in state_dict:
            state_dict[f"{prefix}weight"] = state_dict[f"{prefix}weight"].flatten(1)
        args = (state_dict, prefix, metadata, strict, missing, extra, errors)
        super()._load_from_state_dict(*args)


def test_what_modules_translate():
    model = Translating(2, 1, bias=False)
    load_weights(model, dict(weight=torch.ones(1, 2, 1, 1)), "x.pth")
    assert model.weight.tolist() == [[1, 1]]
    refused = dict(weight=torch.ones(1, 2, 1, 1), old=torch.ones(1))
    with pytest.raises(CheckpointError, match=r"model: old weights have no place here$"):
        load_weights(model, refused, "x.pth", partly=True)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (dict(model=Block().state_dict(), epoch=1), "'model' is a OrderedDict"),
        (dict(state_dict=dict(a=Block().state_dict())), "'a' is a OrderedDict"),
        (dict(state_dict=[1]), "holds no weights by name, but 'state_dict'"),
        (dict(state_dict={1: torch.zeros(1)}), "holds no weights by name"),
        (dict(state_dict=dict(a="text")), "'a' is a str"),
    ],
)
def test_odd_checkpoints(content, says):
    with pytest.raises(CheckpointError, match=says) as caught:
        load_weights(Block(), content, "x.pth", partly=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool], ids=str)
def test_numbers_of_another_kind_do_not_fit(dtype):
    state = dict(weight=torch.ones(2, 3, dtype=dtype), bias=torch.zeros(2))
    with pytest.raises(CheckpointError, match=f"'weight' is {dtype} there and torch.float32 here"):
        load_weights(nn.Linear(3, 2), dict(state_dict=state), "a.pth")


def test_another_precision_fits():
    model = nn.Linear(3, 2)
    state = dict(weight=torch.ones(2, 3).half(), bias=torch.zeros(2, dtype=torch.float64))
    load_weights(model, dict(state_dict=state), "a.pth")
    assert model.weight.dtype == torch.float32 and (model.weight == 1).all()


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        (lambda averages, weights: None, True),
        (lambda averages, weights: averages.clear(), True),
        (lambda averages, weights: averages.pop("module.second.bias"), True),
        (lambda averages, weights: averages.update({"module.head.bias": torch.zeros(9)}), False),
        (lambda averages, weights: averages.update({"module.other": torch.zeros(1)}), False),
        (lambda averages, weights: averages.update(steps=torch.zeros(2)), False),
        (lambda averages, weights: averages.update(steps="text"), False),
        (lambda averages, weights: weights.pop("head.bias"), False),
        (lambda averages, weights: weights.update({"head.bias": torch.zeros(9)}), False),
    ],
)
def test_averages_that_a_hook_resumes(change, fits):
    model = Block()
    averages = dict(ExponentialMovingAverage(model).state_dict())
    weights = dict(model.state_dict())
    change(averages, weights)
    checkpoint = dict(state_dict=weights, ema_state_dict=averages)
    with nullcontext() if fits else pytest.raises(CheckpointError, match=r"x\.pth"):
        check_averages(model, checkpoint, "x.pth")


def test_averages_of_another_model():
    other = Block(7)
    averages = ExponentialMovingAverage(other).state_dict()
    checkpoint = dict(state_dict=other.state_dict(), ema_state_dict=averages)
    with pytest.raises(CheckpointError, match=r"'head\.weight' of its ema_state_dict has another"):
        check_averages(Block(3), checkpoint, "x.pth")
