"""reassemble against loops, closed forms and numeric gradients."""

from __future__ import annotations

import io
import warnings

import pytest
import torch
import torch.nn.functional as F

from mmdysample.ops import naive, reassemble
from mmdysample.ops.cpu import window_tiles
from tests.ops.windows import FORMATS, IDS, SHAPES, Function, peak_memory
from tests.reference.reassemble import random_inputs
from tests.reference.reassemble import reassemble as reassemble_loop
from tests.utils import assert_close, needs_compiler


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_equals_loop(shape, memory_format, device):
    x, kernel = random_inputs(*shape, dtype=torch.float64, device=device)
    expected = reassemble_loop(x, kernel, *shape[4:])
    x = x.contiguous(memory_format=FORMATS[memory_format])
    kernel = kernel.contiguous(memory_format=FORMATS[memory_format])
    out = reassemble(x, kernel, *shape[4:])
    assert_close(out, expected)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_keeps_the_memory_format_of_x(memory_format, device):
    x, kernel = random_inputs(2, 4, 3, 5, 3, 2, device=device)
    out = reassemble(x.contiguous(memory_format=FORMATS[memory_format]), kernel, 3)
    assert out.is_contiguous(memory_format=FORMATS[memory_format])


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_unfolded_way_equals_loop(shape):
    """The rival of the benchmark computes the same."""
    x, kernel = random_inputs(*shape, dtype=torch.float64)
    assert_close(naive.reassemble(x, kernel, *shape[4:]), reassemble_loop(x, kernel, *shape[4:]))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("tile_bytes", [1, 10_000, 60_000, 10_000_000])
@pytest.mark.parametrize("shape", [*SHAPES, (3, 6, 18, 13, 5, 2, 2)], ids=[*IDS, "larger"])
def test_result_and_gradients_do_not_depend_on_tiles(shape, tile_bytes, memory_format, monkeypatch):
    """From a tile a block to one tile for the batch, as unfolding differentiates it."""
    monkeypatch.setattr(window_tiles, "CPU_TILE_BYTES", tile_bytes)
    x, kernel = random_inputs(*shape, dtype=torch.float64)
    x.requires_grad_()
    kernel.requires_grad_()
    expected = naive.reassemble(x, kernel, *shape[4:])
    grad = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, (x, kernel), grad)
    out = reassemble(x.contiguous(memory_format=FORMATS[memory_format]), kernel, *shape[4:])
    grad = grad.contiguous(memory_format=FORMATS[memory_format])
    grads = torch.autograd.grad(out, (x, kernel), grad)
    for actual, wanted in zip((out, *grads), (expected, *expected_grads), strict=True):
        assert_close(actual, wanted)


@pytest.mark.parametrize("shape", [(2, 4, 5, 3, 3, 2, 2), (1, 2, 3, 2, 5, 1, 1)])
def test_numeric_gradients_of_both_orders(shape):
    inputs = random_inputs(*shape, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in inputs]
    function = Function(reassemble, *shape[4:])
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_only_the_gradient_asked_for():
    x, kernel = random_inputs(1, 2, 3, 4, 3, 2)
    out = reassemble(x, kernel.requires_grad_(), 3)
    out.sum().backward()
    assert x.grad is None and kernel.grad.shape == kernel.shape


def test_by_hand():
    """One weight a pixel moves the map; what comes from outside is zero."""
    x = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    kernel = torch.zeros(1, 9, 2, 3)
    kernel[:, 2] = 1  # window row 0, column 2: up and to the right
    expected = torch.tensor([[[[0.0, 0.0, 0.0], [2.0, 3.0, 0.0]]]])
    assert_close(reassemble(x, kernel, 3, scale_factor=1), expected)


@pytest.mark.parametrize("s", [1, 2, 3])
def test_centre_weights_are_nearest_interpolation(s, device):
    x = torch.randn(2, 4, 5, 7, device=device)
    kernel = torch.zeros(2, 2 * 25, s * 5, s * 7, device=device)
    kernel[:, [12, 25 + 12]] = 1
    assert torch.equal(reassemble(x, kernel, 5, s, groups=2), F.interpolate(x, scale_factor=s))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_accumulates_in_float32(dtype, device):
    """The result is the exact one rounded once, and so are the gradients."""
    x, kernel = random_inputs(1, 8, 6, 5, 5, 2, dtype=torch.float64, device=device)
    x, kernel = x.to(dtype).requires_grad_(), kernel.to(dtype).requires_grad_()
    grad = torch.randn(1, 8, 12, 10, dtype=torch.float64, device=device).to(dtype)
    exact = [t.detach().double().requires_grad_() for t in (x, kernel)]
    expected = naive.reassemble(*exact, 5)
    expected_grads = torch.autograd.grad(expected, exact, grad.double())
    out = reassemble(x, kernel, 5)
    grads = torch.autograd.grad(out, (x, kernel), grad)
    for actual, wanted in zip((out, *grads), (expected, *expected_grads), strict=True):
        assert actual.dtype == dtype
        # one rounding, and where terms cancel the rounding of float32 sums
        error = (actual.double() - wanted).abs()
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


def test_autocast_does_not_lower_the_precision(device):
    x, kernel = random_inputs(1, 4, 6, 5, 5, 2, device=device)
    x.requires_grad_()
    with torch.autocast(device, dtype=torch.bfloat16):
        out = reassemble(x, kernel, 5)
        (grad,) = torch.autograd.grad(out.square().sum(), x)
    assert out.dtype == torch.float32
    expected = naive.reassemble(x, kernel, 5)
    assert_close(out, expected)
    assert_close(grad, torch.autograd.grad(expected.square().sum(), x)[0])


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


def test_empty_batch(device):
    inputs = [t.requires_grad_() for t in random_inputs(0, 4, 3, 4, 3, 2, device=device)]
    out = reassemble(*inputs, 3)
    assert out.shape == (0, 4, 6, 8)
    for _ in range(2):
        grads = torch.autograd.grad(out.sum(), inputs, create_graph=True)
        assert [t.shape for t in grads] == [t.shape for t in inputs]
        out = grads[0] * 2 + grads[1].sum()


@pytest.mark.parametrize("backward", [0, 1, 2], ids=["forward", "first gradient", "second"])
@pytest.mark.parametrize(
    ("shape", "dtype", "memory_format"),
    [
        ((1, 64, 32, 32, 5, 2), torch.float32, "contiguous"),
        ((1, 64, 32, 32, 5, 2), torch.float32, "channels_last"),
        ((2, 256, 15, 21, 5, 2), torch.bfloat16, "contiguous"),
        ((1, 64, 40, 40, 7, 1), torch.float32, "contiguous"),
        ((1, 32, 24, 24, 3, 4), torch.float16, "channels_last"),
    ],
    ids=str,
)
def test_memory_stays_below_one_result(shape, dtype, memory_format, backward):
    x, kernel = random_inputs(*shape)
    x = x.to(dtype).contiguous(memory_format=FORMATS[memory_format]).requires_grad_(backward == 1)
    kernel = kernel.to(dtype).requires_grad_(backward == 2)
    out = reassemble(x, kernel, *shape[4:])
    grad = torch.randn_like(out)

    def run():
        if not backward:
            return reassemble(x, kernel, *shape[4:])
        (result,) = torch.autograd.grad(out, (x, kernel)[backward - 1], grad, retain_graph=True)
        return result

    result = run()
    extra = peak_memory(run) - result.numel() * result.element_size()
    assert 0 < extra < out.numel() * out.element_size()


def test_peak_memory_sees_an_unfolded_map():
    """The measure itself: the unfolded map and its products, both at a time."""
    x, kernel = random_inputs(1, 16, 20, 20, 5, 2)
    repeated = 25 * 16 * 40 * 40 * 4
    assert peak_memory(lambda: naive.reassemble(x, kernel, 5)) >= 2 * repeated


@needs_compiler
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(reassemble, fullgraph=True, dynamic=dynamic)
    for size in ((6, 5), (7, 9)):
        inputs = [t.requires_grad_() for t in random_inputs(2, 4, *size, 5, 2)]
        expected = reassemble(*inputs, 5)
        grads = torch.autograd.grad(expected.square().sum(), inputs)
        out = compiled(*inputs, 5)
        assert_close(out, expected)
        actual_grads = torch.autograd.grad(out.square().sum(), inputs)
        for actual, wanted in zip(actual_grads, grads, strict=True):
            assert_close(actual, wanted)


@pytest.mark.skipif(
    not hasattr(torch.compiler, "is_exporting"), reason="needs torch >= 2.7: torch.export is told"
)
def test_export_uses_basic_operators():
    x, kernel = random_inputs(2, 4, 6, 5, 3, 2, groups=2)
    program = torch.export.export(Function(reassemble, 3, 2, 2), (x, kernel))
    assert not any("mmdysample" in str(node.target) for node in program.graph.nodes)
    assert_close(program.module()(x, kernel), reassemble(x, kernel, 3, 2, 2))


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.filterwarnings("ignore")  # of the exporters' own
def test_onnx(dynamo):
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install it")
    pytest.importorskip("onnxscript", reason="needs onnxscript: pip install it")
    x, kernel = random_inputs(2, 4, 6, 5, 3, 2, groups=2)
    file = io.BytesIO()
    torch.onnx.export(
        Function(reassemble, 3, 2, 2),
        (x, kernel),
        file,
        input_names=["x", "kernel"],
        dynamo=dynamo,
        opset_version=18,
    )
    session = runtime.InferenceSession(file.getvalue())
    (out,) = session.run(None, {"x": x.numpy(), "kernel": kernel.numpy()})
    assert_close(torch.from_numpy(out), reassemble(x, kernel, 3, 2, 2))


def test_no_warnings(device):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*jit.trace.* is deprecated", DeprecationWarning)
        x, kernel = random_inputs(1, 4, 5, 6, 5, 2, device=device)
        reassemble(x.requires_grad_(), kernel.requires_grad_(), 5).sum().backward()
        torch.jit.trace(Function(reassemble, 5), (x.detach(), kernel.detach()))


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
def test_errors(change, error, words):
    arguments = dict(x=torch.zeros(2, 4, 5, 6), kernel=torch.zeros(2, 9, 10, 12), kernel_size=3)
    with pytest.raises(error) as caught:
        reassemble(**{**arguments, **change})
    assert words in str(caught.value)
