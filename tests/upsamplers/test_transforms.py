"""torch.func of every upsampler: what meta-learning, per-sample gradients and Jacobians need."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmdysample import Upsampler
from tests.upsamplers.test_contract import build, every_case, make_inputs, run
from tests.utils import assert_close, randomize

# torch.func.jvp compiles some of PyTorch's own derivatives so.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


def make(
    name: str, cfg: dict, device: str
) -> tuple[Upsampler, dict[str, Tensor], tuple[Tensor, ...]]:
    """An upsampler in float64, its parameters, and inputs of two samples."""
    up = randomize(build(name, cfg, device, torch.float64)).eval()
    inputs = make_inputs(up, device=device, dtype=torch.float64)
    return up, {key: value.detach() for key, value in up.named_parameters()}, inputs


def call(up: Upsampler) -> Callable[..., Tensor]:
    return lambda parameters, *inputs: torch.func.functional_call(up, parameters, inputs)


@every_case
def test_gradients_of_each_sample(name, cfg, device):
    """vmap of grad, of a parameter or of x, is what autograd gives for the samples one by one."""
    up, parameters, inputs = make(name, cfg, device)

    def loss(parameters: dict[str, Tensor], *sample: Tensor) -> Tensor:
        return call(up)(parameters, *(t[None] for t in sample)).square().sum()

    gradient = torch.func.grad(loss, argnums=(0, 1))
    grads, grads_x = torch.func.vmap(gradient, (None, *[0] * len(inputs)))(parameters, *inputs)
    for number in range(2):
        sample = [t[number : number + 1] for t in inputs]
        x = sample[0].clone().requires_grad_()
        total = run(up, x, *sample[1:]).square().sum()
        expected_x, *expected = torch.autograd.grad(total, [x, *up.parameters()])
        assert_close(grads_x[number], expected_x[0])
        for key, wanted in zip(parameters, expected, strict=True):
            torch.testing.assert_close(grads[key][number], wanted, rtol=1e-7, atol=1e-7)


@every_case
def test_forward_mode(name, cfg, device):
    """jvp is the slope along a direction."""
    up, parameters, inputs = make(name, cfg, device)
    step = 1e-6
    moves = [torch.randn_like(t) for t in inputs]
    out, slope = torch.func.jvp(lambda *t: call(up)(parameters, *t), inputs, tuple(moves))
    assert_close(out, run(up, *inputs))
    ahead = run(up, *(t + step * move for t, move in zip(inputs, moves, strict=True)))
    behind = run(up, *(t - step * move for t, move in zip(inputs, moves, strict=True)))
    expected = (ahead - behind) / (2 * step)
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-4)
