"""Kernels prove themselves before they are used: some that are broken on purpose do not."""

from __future__ import annotations

import importlib
import warnings

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from mmdysample import DySample
from mmdysample.ops import backend, kernel_check, local_similarity, naive, point_sample, reassemble
from mmdysample.ops.backend import use_backend
from tests.ops.triton_cases import CUDA, DEVICE, needs_triton, on
from tests.utils import assert_close

pytestmark = needs_triton
triton = pytest.importorskip("triton", reason="needs Triton: pip install 'triton>=3.0' (Linux)")
tl = triton.language

FLOAT32 = (torch.float32, torch.float32)


@pytest.fixture(autouse=True)
def _first_use_of_kernels(monkeypatch) -> None:
    """Nothing has been checked yet."""
    monkeypatch.setattr(kernel_check, "_found", {})


@pytest.fixture
def auto(monkeypatch) -> None:
    """'auto' takes Triton's interpreter on a CPU as it takes Triton on a GPU."""
    monkeypatch.setattr(backend, "_reason_against", lambda pixels, maps: None)


for_the_interpreter = pytest.mark.skipif(
    CUDA, reason="for the interpreter: 'auto' is made to take it on a CPU"
)


def check(operation: str, dtypes=FLOAT32) -> str | None:
    return kernel_check.reason_against(operation, dtypes, DEVICE, None)


# What breaks: parts of kernels, and which operations are made of them.


@triton.jit
def _pair_the_wrong_way_round(ptr, left, right, step, mask, has_right):
    side = tl.arange(0, 2)[None, None, :]
    mask = mask[:, :, None] & ((side == 0) | has_right)
    value = tl.join(right, left).to(ptr.dtype.element_ty)
    tl.store(ptr[:, :, None] + side * step, value, mask=mask)


@triton.jit
def _fine_at_the_first_column(row, column, part, stride_row, stride_column, S: tl.constexpr):
    y = row.to(tl.int64)[:, None] * S + (part // S)[None, :]
    return y * stride_row + (column.to(tl.int64)[:, None] * 0 + part[None, :] * 0) * stride_column


@triton.jit
def _neighbors_weighted_the_wrong_way_round(position, length, ACC: tl.constexpr):
    last = (length - 1).to(ACC)
    inside = (position > 0) & (position < last)
    position = tl.where(position > 0, position, 0.0)
    position = tl.where(position < last, position, last)
    before = position.to(tl.int32)
    after = tl.minimum(before + 1, length - 1)
    return after.to(tl.int64), before.to(tl.int64), position - before.to(ACC), inside


@triton.jit
def _add_nothing(ptr, value, unit, mask, FIXED: tl.constexpr):
    tl.atomic_add(ptr, value * 0, mask=mask)


def raise_as_a_compiler_does(*_):
    raise RuntimeError("PTX was compiled with an unsupported toolchain.\nptxas exited with 1")


# name: what is called, the module of its kernels, the part, what replaces it, which operations say
# what of it
BROKEN = {
    "stores": (
        reassemble,
        *("triton.windows", "_store_pair", _pair_the_wrong_way_round),
        *({"weighted_sum", "inner_product"}, "differs from PyTorch's in the result"),
    ),
    "addresses": (
        local_similarity,
        *("triton.windows", "_fine_at", _fine_at_the_first_column),
        *({"scattered_sum"}, "differs from PyTorch's in the result"),
    ),
    "sampling": (
        point_sample,
        *("triton.point_sample", "_neighbors", _neighbors_weighted_the_wrong_way_round),
        *({"point_sample"}, "differs from PyTorch's in the result"),
    ),
    "gradient": (
        point_sample,
        *("triton.point_sample", "_add", _add_nothing),
        *({"point_sample"}, "differs from PyTorch's in the gradient of x"),
    ),
    "compiler": (
        reassemble,
        *("triton.windows", "weighted_sum", raise_as_a_compiler_does),
        {"weighted_sum"},
        "fails (RuntimeError: PTX was compiled with an unsupported toolchain.)",
    ),
}


def break_on_purpose(name: str, monkeypatch) -> None:
    _, module, part, replacement, *_ = BROKEN[name]
    module = importlib.import_module(f"mmdysample.ops.{module}")
    monkeypatch.setattr(module, part, replacement)


def use(function) -> tuple[list[Tensor], list[Tensor]]:
    """What it gives, forward and backward, and what it should give."""
    torch.manual_seed(0)
    plain, *shapes, settings = {
        reassemble: (naive.reassemble, (1, 4, 3, 5), (1, 9, 6, 10), (3, 2)),
        local_similarity: (naive.local_similarity, (1, 4, 6, 10), (1, 4, 3, 5), (3, 2)),
        point_sample: (naive.point_sample, (1, 4, 3, 5), (1, 16, 3, 5), (2, 2)),
    }[function]
    inputs = on(torch.float32, *map(torch.randn, shapes))
    out, expected = function(*inputs, *settings), plain(*inputs, *settings)
    grad = torch.randn_like(expected)
    return (
        [out, *torch.autograd.grad(out, inputs, grad)],
        [expected, *torch.autograd.grad(expected, inputs, grad)],
    )


@pytest.mark.filterwarnings("ignore:was tried again")
@pytest.mark.parametrize("operation", kernel_check.CASES)
def test_kernels_prove_themselves_once(operation, monkeypatch):
    random = torch.random.get_rng_state()
    assert check(operation) is None
    assert torch.equal(torch.random.get_rng_state(), random)
    monkeypatch.setattr(kernel_check, "_try", lambda *_: "was tried again")
    assert check(operation) is None
    assert check(operation, (torch.float16, torch.float32)) == "was tried again"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_other_dtypes(dtype):
    assert check("inner_product", (dtype, dtype)) is None


@for_the_interpreter
@pytest.mark.parametrize("name", BROKEN)
def test_pytorch_computes_what_a_broken_kernel_would(name, auto, monkeypatch):
    function, *_, operations, what = BROKEN[name]
    break_on_purpose(name, monkeypatch)
    with pytest.warns(RuntimeWarning) as caught:
        actual, expected = use(function)
    for value, wanted in zip(actual, expected, strict=True):
        assert_close(value, wanted)
    messages = [str(warning.message) for warning in caught]
    for operation in operations:
        (message,) = (m for m in messages if m.startswith(f"Triton's {operation} of torch.float32"))
        assert what in message
        assert message.endswith("; PyTorch's own operators compute it")
    assert len(messages) == len(operations)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        use(function)


@pytest.mark.parametrize("name", ["stores", "compiler"])
def test_a_broken_kernel_that_is_demanded_is_an_error(name, monkeypatch):
    function, *_, what = BROKEN[name]
    break_on_purpose(name, monkeypatch)
    for _ in range(2):
        with (
            warnings.catch_warnings(),
            use_backend("triton"),
            pytest.raises(RuntimeError) as error,
        ):
            warnings.simplefilter("ignore")
            use(function)
        message = str(error.value)
        assert "demands Triton for weighted_sum, but Triton's weighted_sum of" in message
        assert what in message


@for_the_interpreter
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
@pytest.mark.parametrize("broken", [False, True], ids=["right", "broken"])
def test_a_compiled_graph_is_made_of_what_is_proved(broken, auto, monkeypatch):
    """The check runs while the graph is traced, and is no part of it."""
    if broken:
        break_on_purpose("gradient", monkeypatch)
    torch._dynamo.reset()
    graphs = []

    def keep(graph, inputs):
        graphs.append(str(graph.graph))
        return graph

    up = DySample(8, groups=2).to(DEVICE)
    x = torch.randn(1, 8, 3, 4, device=DEVICE)
    out = torch.compile(up, fullgraph=True, backend=keep)(x)
    assert_close(out, up(x))
    assert list(kernel_check._found.values()).count(None) == (not broken)
    (graph,) = graphs
    assert ("mmdysample.point_sample" in graph) == (not broken)
    assert "sin" not in graph  # of the values that a check is made with


def test_what_surrounds_the_first_use_does_not_matter(monkeypatch):
    with (
        torch.inference_mode(),
        torch.autocast(DEVICE, dtype=torch.bfloat16),
        FakeTensorMode(),
        torch.device("meta"),
    ):
        assert check("point_sample") is None


def test_nothing_is_tried_while_a_graph_is_captured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    reason = kernel_check.reason_against("weighted_sum", FLOAT32, "cuda", 0)
    assert reason == "a CUDA graph is captured, and its kernels have not been checked before"
    assert not kernel_check._found
