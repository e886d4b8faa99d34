"""The Triton kernels of reassemble and local_similarity, on the GPU or in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from mmdysample.ops import local_similarity, naive, reassemble
from mmdysample.ops.backend import use_backend
from tests.ops.triton_cases import FORMATS, needs_gpu, needs_triton, on, run
from tests.ops.windows import OPERATIONS
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
every_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        *((shape, torch.float32) for shape in SHAPES),
        *((SHAPES[2], dtype) for dtype in (torch.float16, torch.bfloat16)),
    ],
    ids=str,
)
@every_operation
def test_dtypes_and_gradients(operation, shape, dtype):
    """Only inputs and results are rounded: unfolding them in float64 is the truth."""
    settings = operation.settings(shape)
    inputs = on(dtype, *operation.inputs(shape))
    exact = [t.detach().double().requires_grad_() for t in inputs]
    grad = torch.randn_like(operation.naive(*exact, *settings)).to(dtype)
    actual = run("triton", operation.function, inputs, settings, grad)
    expected = run("torch", operation.naive, exact, settings, grad)
    assert actual[0].dtype == (dtype if operation.groups else torch.float32)
    for value, wanted in zip(actual, expected, strict=True):
        assert_close(value, wanted)
    assert [t.dtype for t in actual[1:]] == [dtype, dtype]


def test_mixed_dtypes():
    """Under autocast x is half precision, kernels that a softmax has made are float32."""
    shape = (1, 4, 3, 5, 3, 2, 2)
    x, kernel = random_inputs(*shape)
    inputs = [*on(torch.bfloat16, x), *on(torch.float32, kernel)]
    actual = run("triton", reassemble, inputs, shape[4:])
    assert [t.dtype for t in actual] == [torch.bfloat16, torch.bfloat16, torch.float32]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = run("torch", naive.reassemble, exact, shape[4:])
    for value, wanted in zip(actual, expected, strict=True):
        assert_close(value, wanted)


@pytest.mark.parametrize("memory_format", FORMATS)
@every_operation
def test_memory_formats(operation, memory_format):
    shape = (2, 6, 3, 5, 3, 2, 1)
    settings = operation.settings(shape)
    inputs = on(torch.float32, *(FORMATS[memory_format](t) for t in operation.inputs(shape)))
    grad = FORMATS[memory_format](torch.randn_like(operation.naive(*inputs, *settings)))
    actual = run("triton", operation.function, inputs, settings, grad)
    if memory_format == "channels_last":
        assert all(t.is_contiguous(memory_format=torch.channels_last) for t in actual)
    expected = run("torch", operation.naive, inputs, settings, grad)
    for value, wanted in zip(actual, expected, strict=True):
        assert_close(value, wanted)


@every_operation
def test_numeric_gradients_of_both_orders(operation):
    shape = (1, 1, 2, 2, 3, 2, 1)
    inputs = on(torch.float64, *operation.inputs(shape))

    def call(*maps):
        return operation.function(*maps, *operation.settings(shape))

    with use_backend("triton"):
        assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@every_operation
def test_runs_are_equal(operation):
    """Every sum is gathered in one order, whether determinism is asked for or not."""
    shape = (1, 8, 3, 4, 5, 2, 1)
    settings = operation.settings(shape)
    inputs = on(torch.float32, *operation.inputs(shape))
    first = run("triton", operation.function, inputs, settings)
    assert all(map(torch.equal, first, run("triton", operation.function, inputs, settings)))


@every_operation
def test_empty_batch(operation):
    shape = (0, 4, 3, 4, 3, 2, 1)
    inputs = on(torch.float32, *operation.inputs(shape))
    out, *grads = run("triton", operation.function, inputs, operation.settings(shape))
    assert out.shape == (0, 4 if operation.groups else 9, 6, 8)
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
