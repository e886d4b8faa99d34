"""The Triton kernels of reassemble and local_similarity, on the GPU or in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from mmdysample.ops import local_similarity, naive, reassemble
from mmdysample.ops.backend import use_backend
from tests.ops.triton_cases import FORMATS, needs_gpu, needs_triton, on, run
from tests.reference.local_similarity import local_similarity as local_similarity_loop
from tests.reference.reassemble import random_inputs
from tests.reference.reassemble import reassemble as reassemble_loop
from tests.utils import assert_close

pytestmark = needs_triton

# batch, channels, height, width, kernel_size, scale_factor, groups
SHAPES = [
    (1, 4, 5, 7, 5, 2, 2),
    (2, 4, 9, 6, 3, 1, 1),
    (1, 2, 3, 4, 3, 3, 1),
    (1, 2, 2, 3, 3, 4, 2),
    (1, 2, 3, 5, 7, 2, 1),
    (2, 4, 1, 1, 5, 2, 4),
    (1, 4, 6, 5, 1, 2, 2),
    (1, 1, 1, 11, 9, 2, 1),
    (1, 37, 2, 3, 3, 2, 1),
]
IDS = ["b{}-c{}-{}x{}-k{}-s{}-g{}".format(*shape) for shape in SHAPES]
OPERATIONS = {
    "reassemble": (reassemble, reassemble_loop, naive.reassemble),
    "local_similarity": (local_similarity, local_similarity_loop, naive.local_similarity),
}


def make_inputs(name, batch, channels, height, width, kernel_size, scale_factor, groups):
    """Both inputs of an operation, and its settings."""
    if name == "reassemble":
        settings = (kernel_size, scale_factor, groups)
        return random_inputs(batch, channels, height, width, *settings), settings
    query = torch.randn(batch, channels, scale_factor * height, scale_factor * width)
    key = torch.randn(batch, channels, height, width)
    return (query / channels**0.5, key), (kernel_size, scale_factor)


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_equals_loop(name, shape):
    function, loop, _ = OPERATIONS[name]
    inputs, settings = make_inputs(name, *shape)
    inputs = on(torch.float64, *inputs)
    with use_backend("triton"):
        out = function(*inputs, *settings)
    assert_close(out, loop(*inputs, *settings))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        *((shape, torch.float32) for shape in SHAPES),
        *((shape, dtype) for shape in SHAPES[1:3] for dtype in (torch.float16, torch.bfloat16)),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", OPERATIONS)
def test_dtypes_and_gradients(name, shape, dtype):
    """Only inputs and results are rounded: unfolding them in float64 is the truth."""
    function, _, unfolded = OPERATIONS[name]
    inputs, settings = make_inputs(name, *shape)
    inputs = on(dtype, *inputs)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    grad = torch.randn_like(unfolded(*exact, *settings)).to(dtype)
    actual = run("triton", function, inputs, settings, grad)
    expected = run("torch", unfolded, exact, settings, grad)
    assert actual[0].dtype == (dtype if name == "reassemble" else torch.float32)
    for value, wanted in zip(actual, expected, strict=True):
        assert_close(value, wanted)
    assert [t.dtype for t in actual[1:]] == [dtype, dtype]


def test_mixed_dtypes():
    """Under autocast x is half precision, kernels that a softmax has made are float32."""
    (x, kernel), settings = make_inputs("reassemble", 1, 4, 3, 5, 3, 2, 2)
    inputs = [*on(torch.bfloat16, x), *on(torch.float32, kernel)]
    actual = run("triton", reassemble, inputs, settings)
    assert [t.dtype for t in actual] == [torch.bfloat16, torch.bfloat16, torch.float32]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    for value, wanted in zip(actual, run("torch", naive.reassemble, exact, settings), strict=True):
        assert_close(value, wanted)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_memory_formats(name, memory_format):
    function, _, unfolded = OPERATIONS[name]
    inputs, settings = make_inputs(name, 2, 6, 3, 5, 3, 2, 1)
    inputs = [FORMATS[memory_format](t) for t in inputs]
    inputs = on(torch.float32, *inputs)
    expected = unfolded(*inputs, *settings)
    grad = FORMATS[memory_format](torch.randn(expected.shape))
    actual = run("triton", function, inputs, settings, grad)
    if memory_format == "channels_last":
        assert all(t.is_contiguous(memory_format=torch.channels_last) for t in actual)
    expected = run("torch", unfolded, inputs, settings, grad)
    for value, wanted in zip(actual, expected, strict=True):
        assert_close(value, wanted)


@pytest.mark.parametrize("name", OPERATIONS)
def test_numeric_gradients_of_both_orders(name):
    function = OPERATIONS[name][0]
    inputs, settings = make_inputs(name, 1, 1, 2, 2, 3, 2, 1)
    inputs = on(torch.float64, *inputs)

    def call(*maps):
        return function(*maps, *settings)

    with use_backend("triton"):
        assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@pytest.mark.parametrize("name", OPERATIONS)
def test_runs_are_equal(name):
    """Every sum is gathered in one order, whether determinism is asked for or not."""
    function = OPERATIONS[name][0]
    inputs, settings = make_inputs(name, 1, 8, 6, 7, 5, 2, 1)
    inputs = on(torch.float32, *inputs)
    grad = torch.randn_like(function(*inputs, *settings))
    first = run("triton", function, inputs, settings, grad)
    assert all(map(torch.equal, first, run("triton", function, inputs, settings, grad)))


@pytest.mark.parametrize("name", OPERATIONS)
def test_empty_batch(name):
    function = OPERATIONS[name][0]
    inputs, settings = make_inputs(name, 0, 4, 3, 4, 3, 2, 1)
    inputs = on(torch.float32, *inputs)
    out, *grads = run("triton", function, inputs, settings)
    assert out.shape == (0, 4 if name == "reassemble" else 9, 6, 8)
    assert [grad.shape for grad in grads] == [t.shape for t in inputs]


def test_what_lies_beside_the_map_is_not_read():
    """The map is part of a larger one of NaN."""
    around = torch.full((1, 3, 8, 9), float("nan"))
    around[:, :, 2:6, 2:7] = torch.randn(1, 3, 4, 5)
    x = on(torch.float32, around)[0][:, :, 2:6, 2:7]
    kernel = on(torch.float32, torch.randn(1, 25, 8, 10))[0]
    with use_backend("triton"):
        assert_close(reassemble(x, kernel, 5), reassemble_loop(x, kernel, 5), torch.float32)
        query = on(torch.float32, torch.randn(1, 3, 8, 10))[0]
        out = local_similarity(query, x, 5)
    assert_close(out, local_similarity_loop(query, x, 5), torch.float32)


@needs_gpu
@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_properties(0).total_memory < 40 * 2**30,
    reason="needs a GPU with 40 GB",
)
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_more_than_2_to_31_elements(memory_format):
    """Each image and channel as if it were alone; the last ones lie beyond 2^31."""
    half = dict(device="cuda", dtype=torch.float16)
    x = FORMATS[memory_format](torch.randn(2, 160, 1400, 1500, **half))
    kernel = torch.randn(2, 9, 2800, 3000, **half)
    with use_backend("triton"):
        out = reassemble(x, kernel, 3)
        assert out.numel() > 2**31
        small = torch.ops.mmdysample.window_scattered_sum(out, kernel, 3, 2, 1, torch.float16)
        for image in (0, 1):
            for channel in (0, 159):
                here = slice(image, image + 1), slice(channel, channel + 1)
                alone = reassemble(x[here].contiguous(), kernel[image : image + 1], 3)
                assert_close(out[here], alone)
                (wanted,) = torch.autograd.grad(
                    reassemble(
                        leaf := x[here].contiguous().requires_grad_(), kernel[image : image + 1], 3
                    ),
                    leaf,
                    out[here].contiguous(),
                )
                assert_close(small[here], wanted)
        # d = 1: the similarity is a product, taken here from the last image of a large query
        similar = local_similarity(out, x, 1)
        rows = slice(2790, 2800)
        wanted = (
            out[1:, :, rows].float()
            * x[1:, :, 1395:].repeat_interleave(2, 2).repeat_interleave(2, 3).float()
        ).sum(1, keepdim=True)
        torch.testing.assert_close(similar[1:, :, rows], wanted, rtol=1e-3, atol=1e-2)
