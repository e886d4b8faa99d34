"""The Triton kernels of point_sample, on the GPU or in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from mmdysample.ops import point_sample
from mmdysample.ops.backend import use_backend
from tests.ops.test_point_sample import make_inputs
from tests.ops.triton_cases import DEVICE, FORMATS, needs_gpu, needs_triton, on, run
from tests.utils import assert_close

pytestmark = needs_triton

# batch, channels, height, width, scale_factor, groups
SHAPES = [
    (1, 4, 3, 5, 1, 2),
    (2, 6, 4, 3, 2, 1),
    (1, 8, 5, 9, 2, 4),
    (1, 6, 5, 4, 3, 2),
    (1, 2, 2, 3, 4, 2),
    (2, 3, 1, 7, 2, 3),
    (1, 2, 6, 1, 3, 1),
    (1, 4, 1, 1, 2, 4),
    (1, 70, 2, 2, 1, 1),
]
IDS = ["b{}-c{}-{}x{}-s{}-g{}".format(*shape) for shape in SHAPES]


def smooth_inputs(*shape):
    """Bilinear weights have kinks at pixel centres: stay 0.2 pixels away from them."""
    x, offset = make_inputs(*shape)
    return x, torch.randint(-2, 2, offset.shape) + 0.2 + 0.6 * torch.rand_like(offset)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        *((shape, torch.float32) for shape in SHAPES),
        *((shape, dtype) for shape in SHAPES[1:4] for dtype in (torch.float16, torch.bfloat16)),
    ],
    ids=str,
)
def test_dtypes_and_gradients(shape, dtype):
    """Only inputs and results are rounded: float64 grid_sample of the same inputs is the truth."""
    inputs = on(dtype, *smooth_inputs(*shape))
    exact = [t.detach().double().requires_grad_() for t in inputs]
    grad = torch.randn(shape[0], shape[1], shape[4] * shape[2], shape[4] * shape[3]).to(dtype)
    actual = run("triton", point_sample, inputs, shape[4:], grad)
    expected = run("torch", point_sample, exact, shape[4:], grad)
    for value, wanted in zip(actual, expected, strict=True):
        assert value.dtype == dtype
        assert_close(value, wanted, dtype)


def test_mixed_dtypes():
    """Under autocast x may be half precision while offsets are float32."""
    x, offset = smooth_inputs(1, 4, 3, 5, 2, 2)
    inputs = [*on(torch.bfloat16, x), *on(torch.float32, offset)]
    out, grad_x, grad_offset = run("triton", point_sample, inputs, (2, 2))
    assert (out.dtype, grad_x.dtype, grad_offset.dtype) == (
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
    )
    exact = [t.detach().double().requires_grad_() for t in inputs]
    for value, wanted in zip(
        (out, grad_x, grad_offset), run("torch", point_sample, exact, (2, 2)), strict=True
    ):
        assert_close(value, wanted, torch.bfloat16)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_memory_formats(memory_format):
    x, offset = (FORMATS[memory_format](t) for t in make_inputs(2, 6, 3, 5, 2, 2))
    inputs = on(torch.float32, x, offset)
    grad = FORMATS[memory_format](torch.randn(2, 6, 6, 10))
    actual = run("triton", point_sample, inputs, (2, 2), grad)
    if memory_format == "channels_last":
        assert actual[0].is_contiguous(memory_format=torch.channels_last)
        assert actual[1].is_contiguous(memory_format=torch.channels_last)
    for value, wanted in zip(actual, run("torch", point_sample, inputs, (2, 2), grad), strict=True):
        assert_close(value, wanted)


def test_expanded_gradient():
    """``out.sum().backward()`` passes one number with strides of zero."""
    inputs = on(torch.float64, *make_inputs(1, 2, 3, 4, 2, 1))
    grad = torch.ones((), dtype=torch.float64, device=DEVICE).expand(1, 2, 6, 8)
    assert grad.stride() == (0, 0, 0, 0)
    actual = run("triton", point_sample, inputs, (2, 1), grad)
    for value, wanted in zip(actual, run("torch", point_sample, inputs, (2, 1), grad), strict=True):
        assert_close(value, wanted)


@pytest.mark.parametrize("needed", [0, 1])
def test_one_gradient_alone(needed):
    inputs = on(torch.float64, *make_inputs(1, 4, 3, 4, 2, 2))
    both = run("torch", point_sample, inputs, (2, 2))
    inputs[1 - needed].requires_grad_(False)
    with use_backend("triton"):
        out = point_sample(*inputs, 2, 2)
        (grad,) = torch.autograd.grad(out.sum(), inputs[needed])
    assert_close(grad, both[1 + needed])


def test_points_outside_are_clamped_and_do_not_move():
    x, offset = make_inputs(1, 2, 3, 4, 2, 1)
    offset[:, :4], offset[:, 4:] = 1e4, -1e4  # far right, far up
    out, grad_x, grad_offset = run("triton", point_sample, on(torch.float32, x, offset), (2, 1))
    assert_close(out, x[:, :, :1, -1:].expand(1, 2, 6, 8), torch.float32)
    assert not grad_offset.any()
    expected = torch.zeros(1, 2, 3, 4)
    expected[:, :, 0, -1] = 48
    assert_close(grad_x, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
def test_no_offset_reads_outside_of_the_map(value):
    """A NaN reads the first pixel, as grid_sample has it; the map is part of a larger NaN one."""
    around = torch.full((1, 1, 5, 6), float("nan"), device=DEVICE)
    around[:, :, 1:4, 1:5] = 1
    offset = torch.full((1, 8, 3, 4), value, device=DEVICE)
    with use_backend("triton"):
        out = point_sample(around[:, :, 1:4, 1:5], offset, 2)
    assert torch.equal(out, torch.ones_like(out))


def test_empty_batch():
    inputs = on(torch.float32, *make_inputs(0, 4, 3, 5, 2, 2))
    out, *grads = run("triton", point_sample, inputs, (2, 2))
    assert out.shape == (0, 4, 6, 10)
    assert [grad.shape for grad in grads] == [t.shape for t in inputs]


def test_second_derivative_is_refused():
    """grid_sample has none either."""
    x, offset = on(torch.float32, *make_inputs(1, 2, 3, 4, 2, 1))
    with use_backend("triton"):
        out = point_sample(x, offset, 2).square().sum()
    (grad,) = torch.autograd.grad(out, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.fixture(params=[False, True], ids=["deterministic", "warn_only"])
def deterministic(request):
    torch.use_deterministic_algorithms(True, warn_only=request.param)
    yield
    torch.use_deterministic_algorithms(False)


def crowded_inputs(dtype=torch.float32):
    """Many points read each pixel, with gradients of many magnitudes."""
    x, offset = make_inputs(1, 3, 6, 7, 2, 1, spread=4)
    grad = torch.randn(1, 3, 12, 14) * 10 ** torch.empty(1, 3, 12, 14).uniform_(-4, 4)
    return on(dtype, x, offset), grad.to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_deterministic_gradients_are_right(dtype, deterministic):
    inputs, grad = crowded_inputs(dtype)
    exact = [t.detach().double().cpu().requires_grad_() for t in inputs]
    expected = run("torch", point_sample, exact, (2, 1), grad.cpu())
    actual = run("triton", point_sample, inputs, (2, 1), grad)
    for value, wanted in zip(actual, expected, strict=True):
        scale = wanted.abs().max()
        assert_close(value.double() / scale, wanted / scale, dtype)


def test_deterministic_sums_do_not_depend_on_the_order(deterministic):
    """Mirroring the map turns the order of all additions around, and changes bits of floats."""
    (x, offset), grad = crowded_inputs()
    # Sixteenths make mirrored positions exact, so that only the order of additions differs.
    offset = (offset.detach() * 16).round() / 16
    mirrored = -offset.flip(2, 3).unflatten(1, (2, 2, 2)).flip(2, 3).flatten(1, 3)
    grad_of = {}
    for mode in ("deterministic", "float"):
        torch.use_deterministic_algorithms(mode == "deterministic")
        leaves = [t.detach().requires_grad_() for t in (x, offset)]
        one = run("triton", point_sample, leaves, (2, 1), grad)[1]
        leaves = [t.detach().requires_grad_() for t in (x.flip(2, 3), mirrored)]
        other = run("triton", point_sample, leaves, (2, 1), grad.flip(2, 3))[1].flip(2, 3)
        grad_of[mode] = one, other
    assert torch.equal(*grad_of["deterministic"])
    assert_close(*grad_of["float"])
    assert not torch.equal(*grad_of["float"]), "the case does not tell orders apart"


@pytest.mark.parametrize("scale", [1e-30, 1, 1e30, 3e38])
def test_deterministic_sums_of_any_magnitude(scale, deterministic):
    """All points on one pixel, which is the worst case, with gradients at the ends of float32."""
    x = torch.ones(1, 1, 3, 4, device=DEVICE, requires_grad=True)
    offset = torch.full((1, 8, 3, 4), -100.0, device=DEVICE)
    grad = torch.full((1, 1, 6, 8), scale / 48, device=DEVICE)
    with use_backend("triton"):
        (actual,) = torch.autograd.grad(point_sample(x, offset, 2), x, grad)
    expected = torch.zeros(1, 1, 3, 4)
    expected[..., 0, 0] = grad.double().sum()
    assert_close(actual.double() / scale, expected.double() / scale, torch.float32)


@pytest.mark.filterwarnings("ignore:invalid value")  # of the interpreter's NumPy
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_deterministic_gradients_that_are_not_finite_stay_visible(value, deterministic):
    """Loss scaling looks for them: the channel that has one is NaN, the others are as they were."""
    (x, offset), grad = crowded_inputs()
    expected = run("triton", point_sample, (x, offset), (2, 1), grad)[1]
    grad[0, 1, 3, 4] = value
    actual = run("triton", point_sample, (x, offset), (2, 1), grad)[1]
    assert actual[0, 1].isnan().all()
    assert torch.equal(actual[:, ::2], expected[:, ::2])


def test_pytorch_path_is_deterministic_on_the_cpu():
    inputs = [t.detach().cpu().requires_grad_() for t in crowded_inputs()[0]]
    first = run("torch", point_sample, inputs, (2, 1))
    for _ in range(3):
        assert all(map(torch.equal, first, run("torch", point_sample, inputs, (2, 1))))


@needs_gpu
@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_properties(0).total_memory < 40 * 2**30,
    reason="needs a GPU with 40 GB",
)
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_more_than_2_to_31_elements(memory_format):
    """Each image and channel as if it were alone; the last ones lie beyond 2^31."""
    half = dict(device="cuda", dtype=torch.float16)
    x = FORMATS[memory_format](torch.randn(2, 160, 1400, 1500, **half)).requires_grad_()
    offset = torch.randn(2, 8, 1400, 1500, **half).requires_grad_()
    with use_backend("triton"):
        out = point_sample(x, offset, 2)
        assert out.numel() > 2**31
        grad = torch.randn_like(out)
        grad_x, grad_offset = torch.autograd.grad(out, (x, offset), grad)
        # The gradient of the offsets is a sum over channels: take few.
        parts = [(image, channel) for image in (0, 1) for channel in (0, 159)]
        for image, channel in parts:
            here = slice(image, image + 1), slice(channel, channel + 1)
            alone = x.detach()[here].contiguous().requires_grad_()
            result = point_sample(alone, offset.detach()[image : image + 1], 2)
            assert torch.equal(result, out[here])
            (wanted,) = torch.autograd.grad(result, alone, grad[here].contiguous())
            assert_close(grad_x[here], wanted)
    assert grad_offset[1, :, -1].abs().sum() > 0


def test_without_channels_the_offsets_have_no_gradient():
    inputs = on(torch.float32, *make_inputs(1, 0, 3, 4, 2, 1))
    out, _, grad_offset = run("triton", point_sample, inputs, (2, 1))
    assert out.shape == (1, 0, 6, 8)
    assert torch.equal(grad_offset, torch.zeros_like(inputs[1]))
