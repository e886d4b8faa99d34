"""torch.func and forward-mode differentiation of reassemble and local_similarity."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from mmdysample.ops import local_similarity, naive, reassemble
from tests.utils import assert_close

# torch.func.jvp compiles some of PyTorch's own derivatives so.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

# function, its naive implementation, shapes, settings
CASES = {
    "reassemble": (
        *(reassemble, naive.reassemble),
        *((2, 4, 3, 5), (2, 18, 6, 10), (3, 2, 2)),
    ),
    "local_similarity": (
        *(local_similarity, naive.local_similarity),
        *((2, 4, 6, 10), (2, 4, 3, 5), (3, 2)),
    ),
}
every_case = pytest.mark.parametrize("name", CASES)


def make(name: str, device: str = "cpu"):
    """The function and its naive implementation, of two maps, and the maps."""
    function, plain, *shapes, settings = CASES[name]
    maps = [torch.randn(shape, dtype=torch.float64, device=device) for shape in shapes]
    return lambda a, b: function(a, b, *settings), lambda a, b: plain(a, b, *settings), maps


@every_case
def test_grad(name, device):
    function, plain, maps = make(name, device)
    leaves = [t.clone().requires_grad_() for t in maps]
    expected = torch.autograd.grad(plain(*leaves).square().sum(), leaves)
    grads = torch.func.grad(lambda a, b: function(a, b).square().sum(), argnums=(0, 1))(*maps)
    for actual, wanted in zip(grads, expected, strict=True):
        assert_close(actual, wanted)


@every_case
def test_jvp(name, device):
    """Both are linear in each map."""
    function, plain, (a, b) = make(name, device)
    da, db = torch.randn_like(a), torch.randn_like(b)
    out, moved = torch.func.jvp(function, (a, b), (da, db))
    assert_close(out, plain(a, b))
    assert_close(moved, plain(da, b) + plain(a, db))
    _, moved = torch.func.jvp(lambda b: function(a, b), (b,), (db,))
    assert_close(moved, plain(a, db))


@every_case
def test_dual_numbers(name, device):
    function, plain, (a, b) = make(name, device)
    da = torch.randn_like(a)
    with forward_ad.dual_level():
        moved = forward_ad.unpack_dual(function(forward_ad.make_dual(a, da), b)).tangent
    assert_close(moved, plain(da, b))


@every_case
def test_vmap(name, device):
    function, plain, (a, b) = make(name, device)
    many = torch.randn(3, *a.shape, dtype=a.dtype, device=device)
    expected = torch.stack([plain(one, b) for one in many])
    assert_close(torch.func.vmap(function, (0, None))(many, b), expected)
    last = many.movedim(0, -1)
    assert_close(torch.func.vmap(function, (-1, None), -1)(last, b), expected.movedim(0, -1))


@every_case
def test_gradients_of_each_sample(name, device):
    function, plain, (a, b) = make(name, device)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return function(a[None], b[None]).square().sum()

    leaves = [t.clone().requires_grad_() for t in (a, b)]
    expected = torch.autograd.grad(plain(*leaves).square().sum(), leaves)
    grads = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))(a, b)
    for actual, wanted in zip(grads, expected, strict=True):
        assert_close(actual, wanted)


@every_case
def test_forward_over_reverse(name, device):
    """The derivative of a gradient along a direction, as autograd has it in two backward passes."""
    function, plain, (a, b) = make(name, device)
    da = torch.randn_like(a)
    gradient = torch.func.grad(lambda a: function(a, b).pow(3).sum())
    _, moved = torch.func.jvp(gradient, (a,), (da,))
    leaf = a.clone().requires_grad_()
    (first,) = torch.autograd.grad(plain(leaf, b).pow(3).sum(), leaf, create_graph=True)
    (expected,) = torch.autograd.grad(first, leaf, da)
    assert_close(moved, expected)


@every_case
def test_a_batch_of_gradients(name, device):
    """The forward pass is ours, the backward pass under vmap."""
    function, plain, (a, b) = make(name, device)
    leaf = a.clone().requires_grad_()
    out = function(leaf, b)
    many = torch.randn(3, *out.shape, dtype=a.dtype, device=device)
    (grads,) = torch.autograd.grad(out, leaf, many, is_grads_batched=True)
    for grad, wanted in zip(many, grads, strict=True):
        (expected,) = torch.autograd.grad(plain(leaf, b), leaf, grad)
        assert_close(wanted, expected)


@pytest.mark.skipif(torch.__version__ < (2, 4), reason="needs torch >= 2.4: it traces torch.func")
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
@every_case
def test_compiled(name, device):
    function, plain, (a, b) = make(name, device)
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def gradient(a: Tensor, b: Tensor) -> Tensor:
        return torch.func.grad(lambda a: function(a, b).square().sum())(a)

    leaf = a.clone().requires_grad_()
    (expected,) = torch.autograd.grad(plain(leaf, b).square().sum(), leaf)
    assert_close(gradient(a, b), expected)


@every_case
def test_half_precision(name, device):
    """The result is the exact one rounded once (similarities not at all), here too."""
    function, plain, maps = make(name, device)
    maps = [t.bfloat16() for t in maps]
    expected = plain(*(t.double() for t in maps))
    out = torch.func.vmap(lambda a, b: function(a[None], b[None])[0])(*maps)
    assert out.dtype == (torch.bfloat16 if name == "reassemble" else torch.float32)
    assert_close(out, expected)


@every_case
def test_empty_batch(name, device):
    function, _, maps = make(name, device)
    none = [t[:0] for t in maps]
    out, moved = torch.func.jvp(function, tuple(none), tuple(none))
    assert out.shape == moved.shape == (0, *function(*maps).shape[1:])
    grads = torch.func.grad(lambda a, b: function(a, b).sum(), argnums=(0, 1))(*none)
    assert [t.shape for t in grads] == [t.shape for t in none]
