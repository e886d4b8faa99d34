"""point_sample against loops, closed forms and numeric gradients."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmdysample.ops import point_sample
from mmdysample.ops.point_sample import parts_of
from tests.reference.point_sample import point_sample as point_sample_loop
from tests.utils import assert_close, needs_compiler

# batch, channels, height, width, scale_factor, groups
SHAPES = [
    (1, 4, 3, 5, 1, 2),
    (1, 4, 3, 5, 2, 1),
    (2, 8, 4, 3, 2, 4),
    (3, 6, 5, 4, 3, 2),
    (1, 4, 2, 3, 4, 2),
    (2, 5, 3, 2, 5, 1),
    (2, 3, 1, 7, 2, 3),
    (1, 2, 6, 1, 3, 1),
    (1, 4, 1, 1, 2, 4),
]
IDS = ["b{}-c{}-{}x{}-s{}-g{}".format(*shape) for shape in SHAPES]


def make_inputs(
    batch, channels, height, width, s, g, device="cpu", dtype=torch.float64, spread=1.5
) -> tuple[Tensor, Tensor]:
    """x and offsets; with the default spread some points lie outside the map."""
    x = torch.randn(batch, channels, height, width, dtype=torch.float64)
    offset = spread * torch.randn(batch, 2 * g * s * s, height, width, dtype=torch.float64)
    return x.to(device, dtype), offset.to(device, dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_equals_loop(shape, device):
    x, offset = make_inputs(*shape, device=device)
    assert_close(point_sample(x, offset, *shape[4:]), point_sample_loop(x, offset, *shape[4:]))


def test_by_hand():
    """Channel 0 of the offset moves along the row, channel 1 along the column."""
    x = torch.tensor([[[[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]]]])
    right = torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 3)
    down = torch.tensor([0.0, 0.25]).view(1, 2, 1, 1).expand(1, 2, 2, 3)
    assert_close(point_sample(x, right, 1), torch.tensor([[[[0.5, 1.5, 2.0], [10.5, 11.5, 12.0]]]]))
    assert_close(point_sample(x, down, 1), torch.tensor([[[[2.5, 3.5, 4.5], [10.0, 11.0, 12.0]]]]))


@pytest.mark.parametrize("s", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("groups", [1, 3])
def test_zero_offsets_are_nearest_interpolation(s, groups, device):
    x, offset = make_inputs(2, 6, 5, 7, s, groups, device=device, dtype=torch.float32, spread=0)
    assert_close(point_sample(x, offset, s, groups), F.interpolate(x, scale_factor=s))


@pytest.mark.parametrize("s", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("groups", [1, 3])
def test_sub_pixel_centres_are_bilinear_interpolation(s, groups, device):
    x, offset = make_inputs(2, 6, 5, 7, s, groups, device=device)
    centres = (torch.arange(s, dtype=torch.float64, device=device) - (s - 1) / 2) / s
    offset = offset.view(2, 2, groups, s, s, 5, 7)
    offset[:, 0] = centres.view(s, 1, 1)  # along the row: by sub-column
    offset[:, 1] = centres.view(s, 1, 1, 1)
    out = point_sample(x, offset.flatten(1, 4), s, groups)
    assert_close(out, F.interpolate(x, scale_factor=s, mode="bilinear", align_corners=False))


def test_points_outside_are_clamped_to_the_border(device):
    x, offset = make_inputs(1, 2, 3, 4, 2, 1, device=device)
    offset[:, :4], offset[:, 4:] = 1e4, -1e4  # far right, far up
    offset.requires_grad_()
    out = point_sample(x, offset, 2)
    assert_close(out, x[:, :, :1, -1:].expand(1, 2, 6, 8))
    out.sum().backward()
    assert not offset.grad.any(), "a clamped point does not move with its offset"


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_gradcheck(shape, device):
    x, offset = make_inputs(*shape, device=device)
    # Bilinear weights have kinks at pixel centres: stay 0.2 pixels away from them.
    offset = torch.randint(-2, 2, offset.shape, device=device) + 0.2 + 0.6 * torch.rand_like(offset)
    inputs = x.requires_grad_(), offset.requires_grad_()
    # On a GPU atomics add up in any order.
    assert torch.autograd.gradcheck(
        lambda x, offset: point_sample(x, offset, *shape[4:]), inputs, nondet_tol=1e-12
    )


@pytest.mark.parametrize("offset_dtype", [torch.float32, None], ids=["float32-offset", "same"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtypes(dtype, offset_dtype, device):
    """Only the inputs and the result are rounded to half precision, nothing in between."""
    shape = (2, 4, 5, 6, 2, 2)
    x, offset = (t.to(dtype).requires_grad_() for t in make_inputs(*shape, device=device))
    if offset_dtype is not None:
        offset = offset.detach().to(offset_dtype).requires_grad_()
    out = point_sample(x, offset, 2, 2)
    exact_x, exact_offset = (t.detach().double().requires_grad_() for t in (x, offset))
    exact = point_sample(exact_x, exact_offset, 2, 2)
    assert out.dtype == dtype
    assert_close(out, exact)

    weight = torch.randn_like(out)
    out.backward(weight)
    exact.backward(weight.double())
    assert x.grad.dtype == dtype and offset.grad.dtype == offset.dtype
    assert_close(x.grad, exact_x.grad)
    assert_close(offset.grad, exact_offset.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_hits_the_right_pixel_of_a_wide_map(dtype, device):
    """bfloat16 counts in steps of 2 beyond 256, float16 in steps of 2**-4 beyond 128."""
    width = 300
    x = (torch.arange(width) * 7 % 128).to(device, dtype).view(1, 1, 1, width)
    steps = torch.arange(width, device=device) % 5 - 2
    offset = torch.stack((steps, torch.zeros_like(steps))).to(dtype).view(1, 2, 1, width)
    columns = (torch.arange(width, device=device) + steps).clamp(0, width - 1)
    assert_close(point_sample(x, offset, 1), x[..., columns])


NOT_CONTIGUOUS = {
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "strided": lambda t: t.repeat_interleave(2, 1).repeat_interleave(3, 3)[:, ::2, :, 1::3],
    "expanded": lambda t: t[:1].expand_as(t),
}


@pytest.mark.parametrize("change", NOT_CONTIGUOUS)
def test_not_contiguous(change, device):
    x, offset = map(NOT_CONTIGUOUS[change], make_inputs(2, 8, 5, 4, 2, 4, device=device))
    assert not x.is_contiguous() and not offset.is_contiguous()
    out = point_sample(x, offset, 2, 4)
    assert_close(out, point_sample_loop(x, offset, 2, 4))


def test_empty_batch(device):
    x, offset = make_inputs(0, 4, 3, 5, 2, 2, device=device, dtype=torch.float32)
    assert point_sample(x, offset, 2, 2).shape == (0, 4, 6, 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_changes_nothing(dtype, device):
    x, offset = make_inputs(1, 4, 5, 6, 2, 2, device=device, dtype=dtype)
    with torch.autocast(device, dtype=torch.bfloat16):
        out = point_sample(x, offset, 2, 2)
    assert out.dtype == dtype
    assert torch.equal(out, point_sample(x, offset, 2, 2))


@needs_compiler
def test_compiles_in_one_graph(device):
    inputs = make_inputs(2, 8, 5, 7, 2, 4, device=device, dtype=torch.float32)
    grads = []
    for function in (point_sample, torch.compile(point_sample, fullgraph=True)):
        x, offset = (t.clone().requires_grad_() for t in inputs)
        out = function(x, offset, 2, 4)
        assert_close(out, point_sample_loop(x, offset, 2, 4))
        out.square().sum().backward()
        grads.append((x.grad, offset.grad))
    for compiled, eager in zip(*grads, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4)


def test_no_warnings(device):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, offset = (t.requires_grad_() for t in make_inputs(*SHAPES[2], device=device))
        point_sample(x, offset, 2, 4).sum().backward()


ERRORS = {
    "rank": ((4, 3, 5), (1, 8, 3, 5), 2, 1, r"x must be \(B, C, H, W\).*got \(4, 3, 5\)"),
    "groups": ((1, 4, 3, 5), (1, 24, 3, 5), 2, 3, r"divisible by g=3, got \(1, 4, 3, 5\)"),
    "channels": (
        (1, 4, 3, 5),
        (1, 8, 3, 5),
        2,
        2,
        r"\(1, 16, 3, 5\) for s=2, g=2, got \(1, 8, 3, 5\)",
    ),
    "batch": ((2, 4, 3, 5), (1, 8, 3, 5), 2, 1, r"must be \(2, 8, 3, 5\).*got \(1, 8, 3, 5\)"),
    "size": ((1, 4, 3, 5), (1, 8, 6, 10), 2, 1, r"must be \(1, 8, 3, 5\).*got \(1, 8, 6, 10\)"),
    "scale": ((1, 4, 3, 5), (1, 8, 3, 5), 3, 1, r"must be \(1, 18, 3, 5\) for s=3"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_what_would_fit(name):
    x, offset, s, groups, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        point_sample(torch.zeros(x), torch.zeros(offset), s, groups)


@pytest.mark.parametrize(
    ("channels", "parts"),
    [(1, 1), (7, 1), (8, 1), (16, 1), (17, 1), (24, 2), (34, 2), (40, 4), (64, 4), (256, 16)],
)
def test_channels_are_sampled_in_parts_that_fit_in_a_cache(channels, parts):
    assert parts_of(channels) == parts


def test_parts_of_channels_make_no_difference(device):
    """40 channels a group, in four parts on a CPU, against each channel sampled by itself."""
    shape = (2, 80, 5, 6, 2, 2)
    x, offset = make_inputs(*shape, device=device, dtype=torch.float64)
    x.requires_grad_()
    offset.requires_grad_()
    out = point_sample(x, offset, 2, 2)
    grads = torch.autograd.grad(out.square().sum(), (x, offset))
    halves = offset.view(2, 2, 2, 4, 5, 6).unbind(2)  # of the two groups
    alone = [point_sample(x[:, c : c + 1], halves[c // 40].flatten(1, 2), 2, 1) for c in range(80)]
    assert_close(out, torch.cat(alone, dim=1))
    expected = torch.autograd.grad(torch.cat(alone, dim=1).square().sum(), (x, offset))
    for actual, wanted in zip(grads, expected, strict=True):
        assert_close(actual, wanted)


def test_two_devices_are_refused():
    with pytest.raises(ValueError, match="x and offset must be on one device, got cpu and meta"):
        point_sample(torch.zeros(1, 4, 3, 5), torch.zeros(1, 8, 3, 5, device="meta"), 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30], ids=str)
def test_offsets_that_are_no_positions_read_and_write_inside_the_map(value, device):
    """As far as it goes to one side; a NaN is in the first pixel, with no gradient of its own."""
    x, offset = make_inputs(1, 4, 3, 5, 2, 1, device=device, dtype=torch.float32)
    offset[0, :, 1, 2] = value
    x.requires_grad_()
    offset.requires_grad_()
    out = point_sample(x, offset, 2, 1)
    corner = (0, 0) if value != value or value < 0 else (2, 4)
    sampled = out[0, :, 2:4, 4:6]
    assert_close(sampled, x[0, :, corner[0], corner[1]].view(4, 1, 1).expand_as(sampled))
    out.sum().backward()
    assert x.grad.isfinite().all() and offset.grad.isfinite().all()
    assert torch.equal(offset.grad[0, :, 1, 2], torch.zeros(8, device=device))


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ((torch.zeros(1, 4, 2, 2), torch.zeros(1, 8, 2, 2), 2, 0), ValueError, "groups"),
        ((torch.zeros(1, 4, 2, 2), torch.zeros(1, 8, 2, 2), "2"), TypeError, "scale_factor"),
        ((None, torch.zeros(1, 8, 2, 2)), TypeError, "x"),
        ((torch.zeros(1, 4, 2, 2).long(), torch.zeros(1, 8, 2, 2)), TypeError, "int64"),
    ],
    ids=["groups", "scale_factor", "x", "dtype"],
)
def test_settings_are_checked(arguments, error, named):
    with pytest.raises(error, match=named):
        point_sample(*arguments)
