"""point_sample against loops, closed forms and numeric gradients."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from mmdysample.errors import InvalidType, InvalidValue
from mmdysample.ops import naive, point_sample
from tests.ops.windows import peak_memory
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
    # groups of 16 channels, which in channels last are summed as rows on a CPU
    (2, 32, 4, 3, 2, 2),
    (1, 17, 1, 6, 3, 1),
    (1, 32, 5, 1, 1, 2),
]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
every_format = pytest.mark.parametrize("memory_format", FORMATS)
IDS = ["b{}-c{}-{}x{}-s{}-g{}".format(*shape) for shape in SHAPES]


def make_inputs(
    batch, channels, height, width, s, g, device="cpu", dtype=torch.float64, spread=1.5
) -> tuple[Tensor, Tensor]:
    """x and offsets; with the default spread some points lie outside the map."""
    x = torch.randn(batch, channels, height, width, dtype=torch.float64)
    offset = spread * torch.randn(batch, 2 * g * s * s, height, width, dtype=torch.float64)
    return x.to(device, dtype), offset.to(device, dtype)


@every_format
@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_equals_loop(shape, memory_format, device):
    x, offset = make_inputs(*shape, device=device)
    x = x.contiguous(memory_format=FORMATS[memory_format])
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


@every_format
def test_points_outside_are_clamped_to_the_border(memory_format, device):
    x, offset = make_inputs(1, 16, 3, 4, 2, 1, device=device)
    x = x.contiguous(memory_format=FORMATS[memory_format])
    offset[:, :4], offset[:, 4:] = 1e4, -1e4  # far right, far up
    offset.requires_grad_()
    out = point_sample(x, offset, 2)
    assert_close(out, x[:, :, :1, -1:].expand(1, 16, 6, 8))
    out.sum().backward()
    assert not offset.grad.any(), "a clamped point does not move with its offset"


def smooth(offset: Tensor) -> Tensor:
    """Bilinear weights have kinks at pixel centres: 0.2 pixels away from them."""
    whole = torch.randint(-2, 2, offset.shape, device=offset.device)
    return whole + 0.2 + 0.6 * torch.rand_like(offset)


@every_format
@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_gradcheck(shape, memory_format, device):
    x, offset = make_inputs(*shape, device=device)
    x = x.contiguous(memory_format=FORMATS[memory_format])
    inputs = x.requires_grad_(), smooth(offset).requires_grad_()
    # On a GPU atomics add up in any order.
    assert torch.autograd.gradcheck(
        lambda x, offset: point_sample(x, offset, *shape[4:]),
        inputs,
        nondet_tol=1e-12,
        fast_mode=True,
    )


@every_format
@pytest.mark.parametrize("offset_dtype", [torch.float32, None], ids=["float32-offset", "same"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtypes(dtype, offset_dtype, memory_format, device):
    """Only the inputs and the result are rounded to half precision, nothing in between."""
    shape = (2, 32, 5, 6, 2, 2)
    x, offset = make_inputs(*shape, device=device)
    x = x.to(dtype, memory_format=FORMATS[memory_format]).requires_grad_()
    offset = smooth(offset).to(dtype).requires_grad_()
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


@pytest.mark.parametrize("channels", [4, 32])
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
@every_format
def test_result_has_the_layout_of_the_input(memory_format, dtype, channels, device):
    inputs = make_inputs(2, channels, 5, 6, 2, 2, device=device, dtype=dtype)
    x, offset = (t.contiguous(memory_format=FORMATS[memory_format]) for t in inputs)
    x.requires_grad_()
    out = point_sample(x, offset, 2, 2)
    assert out.is_contiguous(memory_format=FORMATS[memory_format])
    if channels == 32:  # a gradient comes as it is computed, from channels first for short rows
        (grad,) = torch.autograd.grad(out.sum(), x)
        assert grad.is_contiguous(memory_format=FORMATS[memory_format])


def test_layouts_agree_at_the_border(device):
    """Points on pixel centres, where a comparison decides what moves; sides without rounding."""
    x, offset = make_inputs(1, 16, 4, 8, 2, 1, device=device, spread=0)
    results = []
    for memory_format in FORMATS.values():
        leaves = [x.clone(memory_format=memory_format), offset.clone()]
        out = point_sample(*(leaf.requires_grad_() for leaf in leaves), 2)
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    for contiguous, channels_last in zip(*results, strict=True):
        assert_close(contiguous, channels_last)


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_layouts_agree_on_what_a_value_that_is_not_finite_spoils(value, device):
    x, offset = make_inputs(1, 16, 5, 6, 2, 1, device=device, dtype=torch.float32)
    x[0, 3, 2, 4] = x[0, 5, 4, 5] = value
    grad = torch.randn(1, 16, 10, 12, device=device)
    grad[0, 7, 6, 3] = value
    spoiled = []
    for memory_format in FORMATS.values():
        leaf = x.clone(memory_format=memory_format).requires_grad_()
        out = point_sample(leaf, offset, 2)
        (grad_x,) = torch.autograd.grad(out, leaf, grad)
        spoiled.append((~out.isfinite(), ~grad_x.isfinite()))
    assert all(found.any() for found in spoiled[0])
    assert all(map(torch.equal, *spoiled))


def test_rows_have_deterministic_gradients():
    x, offset = make_inputs(2, 16, 5, 6, 2, 1, dtype=torch.float32, spread=4)
    x = x.contiguous(memory_format=torch.channels_last)
    leaves = x.requires_grad_(), offset.requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        grads = [torch.autograd.grad(point_sample(*leaves).sum(), leaves) for _ in range(3)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, grads[0], grads[1])) and all(map(torch.equal, *grads[1:]))


@pytest.mark.parametrize("of", ["x", "offset"])
def test_second_derivative_of_rows_is_refused(of):
    x, offset = make_inputs(1, 16, 3, 4, 2, 1)
    x = x.contiguous(memory_format=torch.channels_last)
    leaves = dict(x=x.requires_grad_(), offset=offset.requires_grad_())
    out = point_sample(x, offset, 2).square().sum()
    (grad,) = torch.autograd.grad(out, leaves[of], create_graph=True)
    with pytest.raises(RuntimeError, match=r"not implemented|once_differentiable"):
        grad.sum().backward()


def test_channels_first_takes_no_more_memory_than_the_plain_form():
    """As with channels cut into parts, each with a copy of the points."""
    x, offset = make_inputs(1, 256, 20, 20, 2, 4, dtype=torch.float32)
    result = 4 * 4 * x.numel()
    ours = peak_memory(lambda: point_sample(x, offset, 2, 4)) - result
    plain = peak_memory(lambda: naive.point_sample(x, offset, 2, 4)) - result
    assert 0 < ours <= plain


@every_format
def test_empty_batch(memory_format, device):
    inputs = make_inputs(0, 32, 3, 5, 2, 2, device=device, dtype=torch.float32)
    leaves = [t.contiguous(memory_format=FORMATS[memory_format]).requires_grad_() for t in inputs]
    out = point_sample(*leaves, 2, 2)
    assert out.shape == (0, 32, 6, 10)
    grads = torch.autograd.grad(out.sum(), leaves)
    assert [grad.shape for grad in grads] == [leaf.shape for leaf in leaves]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@every_format
def test_function_transforms(memory_format, dtype, device):
    """torch.func's grad, vmap and jvp, against autograd, single samples and finite differences."""
    x, offset = make_inputs(3, 32, 4, 5, 2, 2, device=device)
    x, offset = x.to(dtype), smooth(offset).to(dtype)
    x = x.contiguous(memory_format=FORMATS[memory_format])
    leaves = x.clone().requires_grad_(), offset.clone().requires_grad_()
    expected = torch.autograd.grad(point_sample(*leaves, 2, 2).float().square().sum(), leaves)

    def loss(x: Tensor, offset: Tensor) -> Tensor:
        return point_sample(x, offset, 2, 2).float().square().sum()

    def loss_of_sample(x: Tensor, offset: Tensor) -> Tensor:
        return loss(x.unsqueeze(0), offset.unsqueeze(0))

    grads = torch.func.grad(loss, (0, 1))(x, offset)
    grads_of_samples = torch.func.vmap(torch.func.grad(loss_of_sample, (0, 1)))(x, offset)
    for one, other, wanted in zip(grads, grads_of_samples, expected, strict=True):
        scale = wanted.abs().max()
        assert_close(one / scale, wanted / scale)
        assert_close(other / scale, wanted / scale)
    if dtype != torch.float64:
        return
    tangents = torch.randn_like(x), torch.randn_like(offset)
    out, moved = torch.func.jvp(lambda *maps: point_sample(*maps, 2, 2), (x, offset), tangents)
    step = 1e-6
    sides = [
        point_sample(x + sign * step * tangents[0], offset + sign * step * tangents[1], 2, 2)
        for sign in (1, -1)
    ]
    assert_close(out, point_sample(x, offset, 2, 2))
    torch.testing.assert_close(moved, (sides[0] - sides[1]) / (2 * step), rtol=1e-6, atol=1e-6)
    with forward_ad.dual_level():
        duals = map(forward_ad.make_dual, (x, offset), tangents)
        assert_close(forward_ad.unpack_dual(point_sample(*duals, 2, 2)).tangent, moved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_changes_nothing(dtype, device):
    x, offset = make_inputs(1, 4, 5, 6, 2, 2, device=device, dtype=dtype)
    with torch.autocast(device, dtype=torch.bfloat16):
        out = point_sample(x, offset, 2, 2)
    assert out.dtype == dtype
    assert torch.equal(out, point_sample(x, offset, 2, 2))


@needs_compiler
@every_format
def test_compiles_in_one_graph(memory_format, device):
    inputs = make_inputs(2, 32, 5, 7, 2, 2, device=device, dtype=torch.float32)
    inputs = [t.contiguous(memory_format=FORMATS[memory_format]) for t in inputs]
    grads = []
    backend = "inductor" if memory_format == "contiguous" else "aot_eager"
    compiled = torch.compile(point_sample, fullgraph=True, backend=backend)
    for function in (point_sample, compiled):
        x, offset = (t.clone().requires_grad_() for t in inputs)
        out = function(x, offset, 2, 2)
        assert_close(out, point_sample_loop(x, offset, 2, 2))
        assert out.is_contiguous(memory_format=FORMATS[memory_format])
        out.square().sum().backward()
        grads.append((x.grad, offset.grad))
    for eager, actual in zip(*grads, strict=True):
        torch.testing.assert_close(actual, eager, rtol=1e-4, atol=1e-4)


def test_no_warnings(device):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, offset = (t.requires_grad_() for t in make_inputs(*SHAPES[2], device=device))
        point_sample(x, offset, 2, 4).sum().backward()


@every_format
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30], ids=str)
def test_offsets_that_are_no_positions_read_and_write_inside_the_map(value, memory_format, device):
    """As far as it goes to one side; a NaN is in the first pixel, with no gradient of its own."""
    x, offset = make_inputs(1, 16, 3, 5, 2, 1, device=device, dtype=torch.float32)
    x = x.contiguous(memory_format=FORMATS[memory_format])
    offset[0, :, 1, 2] = value
    x.requires_grad_()
    offset.requires_grad_()
    out = point_sample(x, offset, 2, 1)
    corner = (0, 0) if value != value or value < 0 else (2, 4)
    sampled = out[0, :, 2:4, 4:6]
    assert_close(sampled, x[0, :, corner[0], corner[1]].view(16, 1, 1).expand_as(sampled))
    out.sum().backward()
    assert x.grad.isfinite().all() and offset.grad.isfinite().all()
    assert torch.equal(offset.grad[0, :, 1, 2], torch.zeros(8, device=device))


X, OFFSET = torch.zeros(1, 4, 3, 5), torch.zeros(1, 8, 3, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X[0], OFFSET), InvalidValue, r"^x must be \(B, C, H, W\), got \(4, 3, 5\)"),
        ((None, OFFSET), InvalidType, "^x must be a floating-point tensor, got NoneType"),
        ((X.long(), OFFSET), InvalidType, "^x must be a floating-point tensor, got torch.int64"),
        ((X[:, :, :0], OFFSET[:, :, :0]), InvalidValue, "at least one pixel"),
        ((X, None), InvalidType, "^offset must be .*, got NoneType"),
        ((X, OFFSET.long()), InvalidType, "^offset must be .*, got torch.int64"),
        ((X, OFFSET[0]), InvalidValue, r"^offset must be \(1, 8, 3, 5\), got \(8, 3, 5\)"),
        ((X, OFFSET, 2, 2), InvalidValue, r"^offset must be \(1, 16, 3, 5\), got \(1, 8, 3, 5\)"),
        ((X, OFFSET, 3), InvalidValue, r"^offset must be \(1, 18, 3, 5\), got"),
        ((X, OFFSET.repeat(2, 1, 1, 1)), InvalidValue, r"^offset must be \(1, 8, 3, 5\), got \(2"),
        ((X, OFFSET[..., :4]), InvalidValue, r"^offset must be \(1, 8, 3, 5\), got \(1, 8, 3, 4\)"),
        ((X, OFFSET.to("meta")), InvalidValue, "x and offset must be on one device, got cpu and m"),
        ((X, OFFSET, 2, 3), InvalidValue, "^groups must divide the 4 channels of x, got 3"),
        ((X, OFFSET, 2, 0), InvalidValue, "^groups must be an integer >= 1, got 0"),
        ((X, OFFSET, 2, True), InvalidType, "^groups must be an integer >= 1, got True"),
        ((X, OFFSET, "2"), InvalidType, "^scale_factor must be an integer >= 1, got '2'"),
        ((X, OFFSET, 2.0), InvalidType, "^scale_factor must be an integer >= 1, got 2.0"),
    ],
)
def test_errors_name_what_would_fit(arguments, error, message):
    with pytest.raises(error, match=message):
        point_sample(*arguments)


def test_numpy_integers_are_integers():
    np = pytest.importorskip("numpy", reason="needs NumPy: pip install numpy")
    x, offset = make_inputs(1, 4, 3, 5, 2, 2)
    out = point_sample(x, offset, np.int64(2), np.uint8(2))
    assert torch.equal(out, point_sample(x, offset, 2, 2))
    with pytest.raises(InvalidType, match="groups must be an integer >= 1"):
        point_sample(x, offset, 2, np.bool_(True))
