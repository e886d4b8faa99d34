"""A value that is infinite or NaN spoils the results that it is a part of, on every path alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmdysample.ops import local_similarity, naive, reassemble
from mmdysample.ops.backend import use_backend
from tests.ops.triton_cases import DEVICE, needs_triton

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered")
INF, NAN = float("inf"), float("nan")
CASES = {
    "reassemble": (reassemble, naive.reassemble, (1, 4, 9, 7), (1, 18, 18, 14), (3, 2, 2)),
    "local_similarity": (
        *(local_similarity, naive.local_similarity),
        *((1, 4, 18, 14), (1, 4, 9, 7), (3, 2)),
    ),
}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def directly(function: Callable[..., Tensor], maps: list[Tensor], grad: Tensor) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in maps]
    out = function(*leaves)
    return [out, *torch.autograd.grad(out, leaves, grad.to(out))]


def transformed(function: Callable[..., Tensor], maps: list[Tensor], grad: Tensor) -> list[Tensor]:
    out, pull_back = torch.func.vjp(function, *maps)
    return [out, *pull_back(grad.to(out))]


def by_triton(function: Callable[..., Tensor], maps: list[Tensor], grad: Tensor) -> list[Tensor]:
    with use_backend("triton"):
        return directly(function, [t.to(DEVICE) for t in maps], grad.to(DEVICE))


PATHS = {
    "tiles": directly,
    "torch.func": transformed,
    "triton": pytest.param(by_triton, marks=needs_triton),
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("value", [INF, NAN], ids=str)
@pytest.mark.parametrize("place", ["inner", "corner"])
@pytest.mark.parametrize("which", ["first", "second", "gradient"])
@pytest.mark.parametrize("name", CASES)
def test_results_and_gradients_are_those_of_unfolding(name, which, place, value, path):
    function, plain, *shapes, settings = CASES[name]
    maps = [torch.randn(shape) for shape in shapes]
    grad = torch.randn_like(plain(*maps, *settings))
    spoilt = dict(first=maps[0], second=maps[1], gradient=grad)[which]
    channel, row, column = dict(inner=(1, 4, 3), corner=(0, 0, 0))[place]
    spoilt[0, channel, row, column] = value
    expected = directly(lambda a, b: plain(a, b, *settings), maps, grad)
    actual = path(lambda a, b: function(a, b, *settings), maps, grad)
    for ours, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), wanted, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_by_count():
    """One infinite pixel lies in 3*3 windows, of four pixels each."""
    x = torch.zeros(1, 1, 12, 12)
    x[0, 0, 5, 6] = INF
    out = reassemble(x, torch.full((1, 9, 24, 24), 1 / 9), 3)
    assert int((~out.isfinite()).sum()) == 36
    assert (out[0, 0, 8:14, 10:16] == INF).all()


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_dtypes_and_layouts(dtype, memory_format):
    maps = [torch.randn(2, 4, 6, 5, dtype=dtype), torch.randn(2, 9, 12, 10, dtype=dtype)]
    grad = torch.randn(2, 4, 12, 10, dtype=dtype)
    maps[0][1, 2, 3, 4] = grad[0, 1, 2, 3] = INF
    maps, grad = (
        [t.contiguous(memory_format=FORMATS[memory_format]) for t in maps],
        grad.contiguous(memory_format=FORMATS[memory_format]),
    )
    actual = directly(lambda x, kernel: reassemble(x, kernel, 3), maps, grad)
    exact = [t.double() for t in maps]
    expected = directly(lambda x, kernel: naive.reassemble(x, kernel, 3), exact, grad.double())
    for ours, wanted in zip(actual, expected, strict=True):
        assert ours.dtype == dtype
        assert ours.is_contiguous(memory_format=FORMATS[memory_format])
        assert torch.equal(ours.isfinite(), wanted.isfinite())


def test_large_half_precision_is_no_infinity(monkeypatch):
    """A map whose sum float16 cannot hold is computed as any other."""
    from mmdysample.ops import window_taps

    def refuse(*_):
        raise AssertionError("computed in taps")

    monkeypatch.setattr(window_taps, "weighted_sum", refuse)
    x = torch.full((1, 4, 30, 30), 1000.0, dtype=torch.float16)
    kernel = torch.full((1, 1, 60, 60), 1.0, dtype=torch.float16)
    assert (reassemble(x, kernel, 1) == 1000).all()
