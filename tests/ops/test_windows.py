"""reassemble and local_similarity against loops, closed forms and numeric gradients."""

from __future__ import annotations

import io
import warnings

import pytest
import torch

from mmdysample.ops import local_similarity, naive, reassemble
from mmdysample.ops.pytorch import window_tiles
from tests.ops.windows import (
    FORMATS,
    OPERATIONS,
    SHAPES,
    Function,
    name_of,
    peak_memory,
    with_gradients,
)
from tests.reference.reassemble import random_inputs
from tests.reference.reassemble import reassemble as reassemble_loop
from tests.utils import assert_close, needs_compiler

every_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
SMALL = (2, 4, 3, 5, 3, 2, 2)


@every_operation
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
def test_equals_loop(shape, memory_format, operation, device):
    """So does the naive implementation, which the benchmark compares with."""
    inputs = operation.inputs(shape, dtype=torch.float64, device=device)
    expected = operation.loop(*inputs, *operation.settings(shape))
    assert_close(operation.naive(*inputs, *operation.settings(shape)), expected)
    inputs = [t.contiguous(memory_format=FORMATS[memory_format]) for t in inputs]
    out = operation.function(*inputs, *operation.settings(shape))
    assert_close(out, expected)
    if memory_format == "contiguous" or not inputs[0].is_contiguous():  # a map may be both
        assert out.is_contiguous(memory_format=FORMATS[memory_format])


@every_operation
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("tile_bytes", [1, 20_000, 10_000_000])
@pytest.mark.parametrize("shape", [*SHAPES, (3, 6, 18, 13, 5, 2, 2)], ids=name_of)
def test_result_and_gradients_do_not_depend_on_tiles(
    shape, tile_bytes, memory_format, operation, monkeypatch
):
    """From a tile a block to one tile for the batch, as unfolding differentiates it."""
    monkeypatch.setattr(window_tiles, "CPU_TILE_BYTES", tile_bytes)
    settings = operation.settings(shape)
    first, second = operation.inputs(shape, dtype=torch.float64)
    leaves = [first.requires_grad_(), second.requires_grad_()]
    grad = torch.randn_like(operation.naive(*leaves, *settings))
    expected = with_gradients(operation.naive, leaves, settings, grad)
    leaves[0] = first.detach().contiguous(memory_format=FORMATS[memory_format]).requires_grad_()
    grad = grad.contiguous(memory_format=FORMATS[memory_format])
    actual = with_gradients(operation.function, leaves, settings, grad)
    for value, wanted in zip(actual, expected, strict=True):
        assert_close(value, wanted)


@every_operation
@pytest.mark.parametrize("shape", [(2, 4, 4, 2, 3, 2, 2), (1, 2, 3, 2, 5, 1, 1)], ids=name_of)
def test_numeric_gradients_of_both_orders(shape, operation):
    inputs = [t.requires_grad_() for t in operation.inputs(shape, dtype=torch.float64)]
    function = Function(operation.function, *operation.settings(shape))
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@every_operation
def test_only_the_gradient_asked_for(operation):
    first, second = operation.inputs(SMALL)
    operation.function(first, second.requires_grad_(), *operation.settings(SMALL)).sum().backward()
    assert first.grad is None and second.grad.shape == second.shape


def test_reassemble_by_hand():
    """One weight a pixel moves the map; what comes from outside is zero."""
    x = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    kernel = torch.zeros(1, 9, 2, 3)
    kernel[:, 2] = 1  # window row 0, column 2: up and to the right
    expected = torch.tensor([[[[0.0, 0.0, 0.0], [2.0, 3.0, 0.0]]]])
    assert_close(reassemble(x, kernel, 3, scale_factor=1), expected)


def test_local_similarity_by_hand():
    """The four pixels of a cell share its window; outside the map the similarity is zero."""
    query = torch.tensor([[[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]]])
    key = torch.tensor([[[[10.0, 100.0]]]])
    out = local_similarity(query, key, 3)
    left, centre, right = out[0, 3], out[0, 4], out[0, 5]
    assert_close(left, torch.tensor([[0.0, 0.0, 30.0, 40.0], [0.0, 0.0, 70.0, 80.0]]))
    assert_close(centre, torch.tensor([[10.0, 20.0, 300.0, 400.0], [50.0, 60.0, 700.0, 800.0]]))
    assert_close(right, torch.tensor([[100.0, 200.0, 0.0, 0.0], [500.0, 600.0, 0.0, 0.0]]))
    assert not out[0, [0, 1, 2, 6, 7, 8]].any()


@every_operation
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_accumulates_in_float32(dtype, operation, device):
    """Results and gradients are the exact ones rounded once; similarities not at all."""
    shape = (1, 8, 6, 5, 5, 2, 1)
    settings = operation.settings(shape)
    inputs = operation.inputs(shape, dtype=torch.float64, device=device)
    inputs = [t.to(dtype).requires_grad_() for t in inputs]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    grad = torch.randn_like(operation.naive(*exact, *settings)).to(dtype).double()
    expected = with_gradients(operation.naive, exact, settings, grad)
    actual = with_gradients(operation.function, inputs, settings, grad)
    if operation.function is local_similarity:
        assert actual[0].dtype == torch.float32
        assert_close(actual.pop(0), expected.pop(0))
    for value, wanted in zip(actual, expected, strict=True):
        assert value.dtype == dtype
        # one rounding, and where terms cancel the rounding of float32 sums
        error = (value.double() - wanted).abs()
        assert (error <= torch.finfo(dtype).eps / 2 * wanted.abs() + 1e-5).all()


def test_dtypes_may_differ(device):
    """Kernels stay float32 beside half-precision features, as under autocast."""
    x, kernel = random_inputs(1, 4, 3, 4, 3, 2, device=device)
    x = x.bfloat16().requires_grad_()
    kernel.requires_grad_()
    out = reassemble(x, kernel, 3)
    out.float().sum().backward()
    assert (out.dtype, x.grad.dtype, kernel.grad.dtype) == (x.dtype, x.dtype, torch.float32)
    assert_close(out, naive.reassemble(x.double(), kernel.double(), 3))


@every_operation
def test_autocast_does_not_lower_the_precision(operation, device):
    settings = operation.settings(SMALL)
    inputs = [t.requires_grad_() for t in operation.inputs(SMALL, device=device)]
    expected = operation.naive(*inputs, *settings)
    grad = torch.randn_like(expected)
    with torch.autocast(device, dtype=torch.bfloat16):
        actual = with_gradients(operation.function, inputs, settings, grad)
    for value, wanted in zip(
        actual, with_gradients(operation.naive, inputs, settings, grad), strict=True
    ):
        assert value.dtype == torch.float32
        assert_close(value, wanted)


@pytest.mark.parametrize(
    "slices",
    [
        (..., slice(None, None, 2)),
        (..., slice(1, None), slice(1, None)),
        (slice(None), slice(1, 3)),
    ],
    ids=["steps", "inner", "channels"],
)
def test_views(slices, device):
    x = torch.randn(2, 4, 9, 10, dtype=torch.float64, device=device)[slices]
    kernel = torch.randn(2, 9, 2 * x.shape[2], 2 * x.shape[3], dtype=x.dtype, device=device)
    out = reassemble(x, kernel.transpose(0, 1).contiguous().transpose(0, 1), 3)
    assert_close(out, reassemble_loop(x, kernel, 3))


@every_operation
def test_empty_batch(operation, device):
    inputs = [t.requires_grad_() for t in operation.inputs((0, *SMALL[1:]), device=device)]
    out = operation.function(*inputs, *operation.settings(SMALL))
    assert out.shape == (0, 4 if operation.groups else 9, 6, 10)
    for _ in range(2):
        grads = torch.autograd.grad(out.sum(), inputs, create_graph=True)
        assert [t.shape for t in grads] == [t.shape for t in inputs]
        out = grads[0] * 2 + grads[1].sum()


@every_operation
@pytest.mark.parametrize("backward", [None, 0, 1], ids=["forward", "first gradient", "second"])
@pytest.mark.parametrize(
    ("shape", "dtype", "memory_format"),
    [
        ((1, 32, 32, 32, 5, 2, 1), torch.float32, "contiguous"),
        ((1, 32, 32, 32, 5, 2, 1), torch.float32, "channels_last"),
        ((2, 64, 15, 21, 5, 2, 1), torch.bfloat16, "contiguous"),
        ((1, 64, 40, 40, 7, 1, 1), torch.float32, "contiguous"),
        ((1, 32, 24, 24, 3, 4, 1), torch.float16, "channels_last"),
    ],
    ids=str,
)
def test_memory_stays_below_one_large_map(shape, dtype, memory_format, backward, operation):
    settings = operation.settings(shape)
    inputs = [
        t.to(dtype).contiguous(memory_format=FORMATS[memory_format]).requires_grad_(n == backward)
        for n, t in enumerate(operation.inputs(shape))
    ]
    out = operation.function(*inputs, *settings)
    grad = torch.randn_like(out)

    def run():
        if backward is None:
            return operation.function(*inputs, *settings)
        return torch.autograd.grad(out, inputs[backward], grad, retain_graph=True)[0]

    result = run()
    extra = peak_memory(run) - result.numel() * result.element_size()
    largest = max(t.numel() * t.element_size() for t in (out, *inputs))
    assert 0 < extra < largest


def test_peak_memory_sees_an_unfolded_map():
    """The measure itself: the unfolded map and its products, both at a time."""
    x, kernel = random_inputs(1, 16, 20, 20, 5, 2)
    repeated = 25 * 16 * 40 * 40 * 4
    assert peak_memory(lambda: naive.reassemble(x, kernel, 5)) >= 2 * repeated


@needs_compiler
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
@pytest.mark.parametrize("dynamic", [False, True])
@every_operation
def test_compile(operation, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(operation.function, fullgraph=True, dynamic=dynamic)
    for size in ((6, 5), (7, 9)):
        shape = (2, 4, *size, 5, 2, 1)
        settings = operation.settings(shape)
        inputs = [t.requires_grad_() for t in operation.inputs(shape)]
        grad = torch.randn_like(operation.function(*inputs, *settings))
        expected = with_gradients(operation.function, inputs, settings, grad)
        for actual, wanted in zip(
            with_gradients(compiled, inputs, settings, grad), expected, strict=True
        ):
            assert_close(actual, wanted)


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.filterwarnings("ignore")  # of the exporters' own
@every_operation
def test_onnx(operation, dynamo):
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install it")
    pytest.importorskip("onnxscript", reason="needs onnxscript: pip install it")
    inputs, settings = operation.inputs(SMALL), operation.settings(SMALL)
    file = io.BytesIO()
    torch.onnx.export(
        Function(operation.function, *settings),
        tuple(inputs),
        file,
        input_names=["first", "second"],
        dynamo=dynamo,
        opset_version=18,
    )
    session = runtime.InferenceSession(file.getvalue())
    (out,) = session.run(None, {"first": inputs[0].numpy(), "second": inputs[1].numpy()})
    assert_close(torch.from_numpy(out), operation.function(*inputs, *settings))


@every_operation
def test_no_warnings(operation, device):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*jit.trace.* is deprecated", DeprecationWarning)
        inputs, settings = operation.inputs(SMALL, device=device), operation.settings(SMALL)
        leaves = [t.clone().requires_grad_() for t in inputs]
        operation.function(*leaves, *settings).sum().backward()
        torch.jit.trace(Function(operation.function, *settings), tuple(inputs))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (dict(kernel_size=4), ValueError, "kernel_size must be an odd integer >= 1, got 4"),
        (dict(kernel_size=3.0), TypeError, "kernel_size must be an odd integer >= 1, got 3.0"),
        (dict(scale_factor=0), ValueError, "scale_factor must be an integer >= 1, got 0"),
        (dict(scale_factor=True), TypeError, "scale_factor must be an integer >= 1, got True"),
        (dict(groups=3), ValueError, "groups must divide the 4 channels of x, got 3"),
        (dict(groups=2), ValueError, r"kernel must be (2, 18, 10, 12), got (2, 9, 10, 12)"),
        (dict(x=torch.zeros(4, 5, 6)), ValueError, "x must be (B, C, H, W), got (4, 5, 6)"),
        (dict(x=torch.zeros(2, 4, 5, 6).int()), TypeError, "got torch.int32"),
        (dict(kernel=torch.zeros(2, 9, 5, 6)), ValueError, "got (2, 9, 5, 6)"),
        (dict(kernel=None), TypeError, "kernel must be a floating-point tensor, got NoneType"),
        (dict(kernel=torch.zeros(2, 9, 10, 12, device="meta")), ValueError, "got cpu and meta"),
    ],
    ids=str,
)
def test_errors_of_reassemble(change, error, words):
    arguments = dict(x=torch.zeros(2, 4, 5, 6), kernel=torch.zeros(2, 9, 10, 12), kernel_size=3)
    with pytest.raises(error) as caught:
        reassemble(**{**arguments, **change})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (dict(kernel_size=0), ValueError, "kernel_size must be an odd integer >= 1, got 0"),
        (dict(scale_factor=3), ValueError, "query must be (2, 4, 15, 18), got (2, 4, 10, 12)"),
        (dict(key=torch.zeros(2, 4, 5)), ValueError, "key must be (B, C, H, W), got (2, 4, 5)"),
        (dict(key=torch.zeros(1, 4, 5, 6)), ValueError, "query must be (1, 4, 10, 12)"),
        (dict(query=torch.zeros(2, 4, 10, 12).long()), TypeError, "got torch.int64"),
        (dict(query=torch.zeros(2, 4, 10, 12, device="meta")), ValueError, "got meta and cpu"),
    ],
    ids=str,
)
def test_errors_of_local_similarity(change, error, words):
    arguments = dict(query=torch.zeros(2, 4, 10, 12), key=torch.zeros(2, 4, 5, 6), kernel_size=3)
    with pytest.raises(error) as caught:
        local_similarity(**{**arguments, **change})
    assert words in str(caught.value)
