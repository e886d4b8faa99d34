"""The dry run: it leaves no trace, whatever the model does."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdysample import find_upsampling, swap_upsampling
from mmdysample.errors import InvalidValue


class Messy(nn.Module):
    """Changes of itself all that a forward can."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 2, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.average = nn.BatchNorm2d(8, momentum=None)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("steps", torch.zeros(3))
        self.register_buffer("spread", torch.zeros(1).expand(4))
        self.plain = torch.zeros(2)
        self.grid = None
        self.sizes = ["none"]
        self.seen = {"first": 1}
        self.error = None
        self.conv.weight.grad = torch.ones_like(self.conv.weight)

    def train(self, mode: bool = True) -> Messy:
        """As backbones with frozen stages do."""
        super().train(mode)
        self.norm.weight.requires_grad = False
        self.conv.weight.grad = None
        return self

    def forward(self, images: Tensor) -> Tensor:
        super().train()  # a model may do so
        self.steps += torch.rand(3) + random.random() + np.random.rand()
        self.plain += 1
        self.grid = torch.zeros(images.shape)
        self.sizes.append(images.shape)
        self.seen["last"] = images
        self.late = nn.Linear(2, 2)
        self.register_buffer("later", torch.zeros(1))
        self.norm.weight.requires_grad = False
        self.conv.register_forward_hook(print)
        self.conv.register_forward_pre_hook(print)
        del self.conv._forward_hooks[next(reversed(self.conv._forward_hooks))]
        self.conv._forward_pre_hooks.clear()
        x = self.drop(self.average(self.norm(self.conv(images))))
        self.norm.register_forward_hook(lambda *args: None)
        if self.error is not None:
            raise self.error
        return F.interpolate(x, scale_factor=2).mean(dim=1)


def everything(model: nn.Module) -> list:
    """All that a module is, in values that can be compared."""

    def plain(value):
        if isinstance(value, Tensor):
            return id(value), value.tolist(), value.requires_grad
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        return list(value) if isinstance(value, (list, set)) else value

    modules = [(name, type(module), module) for name, module in model.named_modules()]
    parts = [(name, cls, plain(module.__dict__)) for name, cls, module in modules]
    numpy = plain(np.random.get_state(legacy=False))
    grads = [None if p.grad is None else p.grad.tolist() for p in model.parameters()]
    return [*parts, grads, torch.get_rng_state().tolist(), random.getstate(), numpy]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("error", [None, ArithmeticError("odd"), KeyboardInterrupt()])
def test_it_leaves_no_trace(training, error):
    model = Messy()
    nn.Module.train(model, training)
    model.norm.eval()
    hook = model.conv.register_forward_hook(lambda module, args, output: output * 2)
    model.error = error
    example = torch.rand(1, 3, 8, 8)
    steps, before = model.steps.clone(), everything(model)
    if error is None:
        assert [site.name for site in find_upsampling(model, example)] == ["upsampling.0"]
    else:
        expected = InvalidValue if isinstance(error, Exception) else KeyboardInterrupt
        with pytest.raises(expected):
            find_upsampling(model, example)
    after = everything(model)
    assert torch.equal(model.steps, steps)
    for one, other in zip(before, after, strict=True):
        assert one == other
    hook.remove()


def test_the_gradient_mode_and_torch_functions_are_as_before():
    calls = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            calls.append(function)
            return function(*args, **(kwargs or {}))

    model = Messy()
    model.error = ArithmeticError()
    with Mode(), pytest.raises(InvalidValue):
        find_upsampling(model, torch.rand(1, 3, 8, 8))
    assert calls  # the mode of the caller's meets the calls, too
    assert torch.is_grad_enabled()
    assert torch.overrides._len_torch_function_stack() == 0


def test_in_inference_mode():
    with torch.inference_mode():
        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Upsample(scale_factor=2))
        model.append(nn.ReLU())
        assert len(find_upsampling(model, torch.rand(1, 3, 8, 8))) == 1
        swap_upsampling(model, dict(type="DySample"), torch.rand(1, 3, 8, 8))
        assert model(torch.rand(1, 3, 8, 8)).shape == (1, 8, 16, 16)
