"""local_similarity against loops, closed forms and numeric gradients."""

from __future__ import annotations

import io
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmdysample.ops import local_similarity, naive
from mmdysample.ops.cpu import window_tiles
from tests.ops.windows import FORMATS, IDS, SHAPES, Function, peak_memory
from tests.reference.local_similarity import local_similarity as local_similarity_loop
from tests.utils import assert_close, needs_compiler


def random_inputs(
    batch, channels, height, width, kernel_size, scale_factor, *_, **options
) -> tuple[Tensor, Tensor]:
    """query and key, scaled so that similarities are around 1."""
    s, root = scale_factor, channels**0.5
    query = torch.randn(batch, channels, s * height, s * width, **options) / root
    return query, torch.randn(batch, channels, height, width, **options)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_equals_loop(shape, memory_format, device):
    query, key = random_inputs(*shape, dtype=torch.float64, device=device)
    expected = local_similarity_loop(query, key, *shape[4:6])
    query = query.contiguous(memory_format=FORMATS[memory_format])
    key = key.contiguous(memory_format=FORMATS[memory_format])
    assert_close(local_similarity(query, key, *shape[4:6]), expected)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_keeps_the_memory_format_of_the_query(memory_format, device):
    query, key = random_inputs(2, 4, 3, 5, 3, 2, device=device)
    out = local_similarity(query.contiguous(memory_format=FORMATS[memory_format]), key, 3)
    assert out.is_contiguous(memory_format=FORMATS[memory_format])


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_unfolded_way_equals_loop(shape):
    """The rival of the benchmark computes the same."""
    inputs = random_inputs(*shape, dtype=torch.float64)
    assert_close(
        naive.local_similarity(*inputs, *shape[4:6]), local_similarity_loop(*inputs, *shape[4:6])
    )


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("tile_bytes", [1, 10_000, 60_000, 10_000_000])
@pytest.mark.parametrize("shape", [*SHAPES, (3, 6, 18, 13, 5, 2)], ids=[*IDS, "larger"])
def test_result_and_gradients_do_not_depend_on_tiles(shape, tile_bytes, memory_format, monkeypatch):
    """From a tile a block to one tile for the batch, as unfolding differentiates it."""
    monkeypatch.setattr(window_tiles, "CPU_TILE_BYTES", tile_bytes)
    query, key = (t.requires_grad_() for t in random_inputs(*shape, dtype=torch.float64))
    expected = naive.local_similarity(query, key, *shape[4:6])
    grad = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, (query, key), grad)
    out = local_similarity(query.contiguous(memory_format=FORMATS[memory_format]), key, *shape[4:6])
    grad = grad.contiguous(memory_format=FORMATS[memory_format])
    grads = torch.autograd.grad(out, (query, key), grad)
    for actual, wanted in zip((out, *grads), (expected, *expected_grads), strict=True):
        assert_close(actual, wanted)


@pytest.mark.parametrize("shape", [(2, 3, 4, 2, 3, 2), (1, 2, 2, 3, 5, 1)])
def test_numeric_gradients_of_both_orders(shape):
    inputs = [t.requires_grad_() for t in random_inputs(*shape, dtype=torch.float64)]
    function = Function(local_similarity, *shape[4:])
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_by_hand():
    """The four pixels of a cell share its window; outside the map the similarity is zero."""
    query = torch.tensor([[[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]]])
    key = torch.tensor([[[[10.0, 100.0]]]])
    out = local_similarity(query, key, 3)
    left, centre, right = out[0, 3], out[0, 4], out[0, 5]
    assert_close(left, torch.tensor([[0.0, 0.0, 30.0, 40.0], [0.0, 0.0, 70.0, 80.0]]))
    assert_close(centre, torch.tensor([[10.0, 20.0, 300.0, 400.0], [50.0, 60.0, 700.0, 800.0]]))
    assert_close(right, torch.tensor([[100.0, 200.0, 0.0, 0.0], [500.0, 600.0, 0.0, 0.0]]))
    assert not out[0, [0, 1, 2, 6, 7, 8]].any()


@pytest.mark.parametrize("s", [1, 2, 3])
def test_one_by_one_window_is_a_product(s, device):
    query, key = random_inputs(2, 4, 5, 7, 1, s, device=device)
    expected = (query * F.interpolate(key, scale_factor=s)).sum(1, keepdim=True)
    assert_close(local_similarity(query, key, 1, s), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_gives_float32(dtype, device):
    """Similarities are not rounded to half precision at all, gradients once."""
    inputs = random_inputs(1, 16, 6, 5, 5, 2, dtype=torch.float64, device=device)
    inputs = [t.to(dtype).requires_grad_() for t in inputs]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = naive.local_similarity(*exact, 5)
    grad = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, exact, grad)
    out = local_similarity(*inputs, 5)
    assert out.dtype == torch.float32
    assert_close(out, expected)
    for actual, wanted in zip(
        torch.autograd.grad(out, inputs, grad.float()), expected_grads, strict=True
    ):
        assert actual.dtype == dtype
        # one rounding, and where terms cancel the rounding of float32 sums
        error = (actual.double() - wanted).abs()
        assert (error <= torch.finfo(dtype).eps / 2 * wanted.abs() + 1e-5).all()


def test_autocast_does_not_lower_the_precision(device):
    query, key = random_inputs(1, 8, 6, 5, 5, 2, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        out = local_similarity(query, key, 5)
    assert_close(out, naive.local_similarity(query, key, 5))


def test_empty_batch(device):
    inputs = [t.requires_grad_() for t in random_inputs(0, 4, 3, 4, 3, 2, device=device)]
    out = local_similarity(*inputs, 3)
    assert out.shape == (0, 9, 6, 8)
    for _ in range(2):
        grads = torch.autograd.grad(out.sum(), inputs, create_graph=True)
        assert [t.shape for t in grads] == [t.shape for t in inputs]
        out = grads[0] * 2 + grads[1].sum()


@pytest.mark.parametrize("backward", [0, 1, 2], ids=["forward", "first gradient", "second"])
@pytest.mark.parametrize(
    ("shape", "dtype", "memory_format"),
    [
        ((1, 32, 32, 32, 5, 2), torch.float32, "contiguous"),
        ((1, 32, 32, 32, 5, 2), torch.float32, "channels_last"),
        ((2, 64, 15, 21, 5, 2), torch.bfloat16, "contiguous"),
        ((1, 32, 40, 40, 7, 1), torch.float32, "contiguous"),
        ((1, 16, 24, 24, 3, 4), torch.float16, "channels_last"),
    ],
    ids=str,
)
def test_memory_stays_below_one_result(shape, dtype, memory_format, backward):
    inputs = [
        t.to(dtype).contiguous(memory_format=FORMATS[memory_format]).requires_grad_(backward == n)
        for n, t in enumerate(random_inputs(*shape), 1)
    ]
    out = local_similarity(*inputs, *shape[4:])
    grad = torch.randn_like(out)

    def run():
        if not backward:
            return local_similarity(*inputs, *shape[4:])
        (result,) = torch.autograd.grad(out, inputs[backward - 1], grad, retain_graph=True)
        return result

    result = run()
    extra = peak_memory(run) - result.numel() * result.element_size()
    assert 0 < extra < out.numel() * out.element_size()


@needs_compiler
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(local_similarity, fullgraph=True, dynamic=dynamic)
    for size in ((6, 5), (7, 9)):
        inputs = [t.requires_grad_() for t in random_inputs(2, 4, *size, 5, 2)]
        expected = local_similarity(*inputs, 5)
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
    inputs = random_inputs(2, 4, 6, 5, 3, 2)
    program = torch.export.export(Function(local_similarity, 3), inputs)
    assert not any("mmdysample" in str(node.target) for node in program.graph.nodes)
    assert_close(program.module()(*inputs), local_similarity(*inputs, 3))


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.filterwarnings("ignore")  # of the exporters' own
def test_onnx(dynamo):
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install it")
    pytest.importorskip("onnxscript", reason="needs onnxscript: pip install it")
    query, key = random_inputs(2, 4, 6, 5, 3, 2)
    file = io.BytesIO()
    torch.onnx.export(
        Function(local_similarity, 3),
        (query, key),
        file,
        input_names=["query", "key"],
        dynamo=dynamo,
        opset_version=18,
    )
    session = runtime.InferenceSession(file.getvalue())
    (out,) = session.run(None, {"query": query.numpy(), "key": key.numpy()})
    assert_close(torch.from_numpy(out), local_similarity(query, key, 3))


def test_no_warnings(device):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*jit.trace.* is deprecated", DeprecationWarning)
        inputs = random_inputs(1, 4, 5, 6, 5, 2, device=device)
        leaves = [t.clone().requires_grad_() for t in inputs]
        local_similarity(*leaves, 5).sum().backward()
        torch.jit.trace(Function(local_similarity, 5), inputs)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (dict(kernel_size=0), ValueError, "kernel_size must be an odd integer >= 1, got 0"),
        (dict(kernel_size="3"), TypeError, "kernel_size must be an odd integer >= 1, got '3'"),
        (dict(scale_factor=3), ValueError, "query must be (2, 4, 15, 18), got (2, 4, 10, 12)"),
        (dict(key=torch.zeros(2, 4, 5)), ValueError, "key must be (B, C, H, W), got (2, 4, 5)"),
        (dict(key=torch.zeros(1, 4, 5, 6)), ValueError, "query must be (1, 4, 10, 12)"),
        (dict(query=torch.zeros(2, 4, 10, 12).long()), TypeError, "got torch.int64"),
        (dict(query=torch.zeros(2, 4, 10, 12, device="meta")), ValueError, "got meta and cpu"),
    ],
    ids=str,
)
def test_errors(change, error, words):
    arguments = dict(query=torch.zeros(2, 4, 10, 12), key=torch.zeros(2, 4, 5, 6), kernel_size=3)
    with pytest.raises(error) as caught:
        local_similarity(**{**arguments, **change})
    assert words in str(caught.value)
