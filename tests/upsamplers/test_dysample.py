"""DySample against loops over pixels, the paper's counts and the authors' checkpoints."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdysample import DySample
from tests.reference.dysample import dysample, dysample_torch
from tests.utils import DYSAMPLE_VARIANTS as VARIANTS
from tests.utils import assert_close, randomize

every_variant = pytest.mark.parametrize("variant", VARIANTS)


def weights(up: DySample) -> tuple[Tensor | None, ...]:
    scope = (up.scope.weight, up.scope.bias) if up.dyscope else (None, None)
    return up.offset.weight, up.offset.bias, *scope


def settings(up: DySample) -> dict:
    names = ("scale_factor", "groups", "style")
    return {name: getattr(up, name) for name in names}


def make(channels: int, device="cpu", std=0.4, **kwargs) -> DySample:
    """In float64, with weights that move points by about a pixel, over the border too."""
    return randomize(DySample(channels, **kwargs).to(device, torch.float64), std)


def check_against_loop(up: DySample, height=3, width=5, batch=2, **reference_settings) -> None:
    device = up.offset.weight.device
    x = torch.randn(batch, up.in_channels, height, width, dtype=torch.float64, device=device)
    expected = dysample(x, *weights(up), **settings(up) | reference_settings)
    # the initial positions are stored in float32
    assert_close(up(x), expected, dtype=torch.float32)


@every_variant
@pytest.mark.parametrize(("height", "width"), [(3, 5), (1, 4), (1, 1)])
def test_variants_equal_loop(variant, height, width, device):
    check_against_loop(make(32, device, **VARIANTS[variant]), height, width)


@pytest.mark.parametrize("dyscope", [False, True])
@pytest.mark.parametrize("style", ["lp", "pl"])
@pytest.mark.parametrize("s", [1, 3, 5])
def test_every_scale_equals_loop(s, style, dyscope):
    up = make(2 * s * s, scale_factor=s, groups=2, style=style, dyscope=dyscope)
    check_against_loop(up, height=2, width=3)


@pytest.mark.parametrize("dyscope", [False, True])
@pytest.mark.parametrize("initial_position", ["bilinear", "nearest"])
def test_table_1_initial_position(initial_position, dyscope):
    up = make(4, initial_position=initial_position, dyscope=dyscope)
    check_against_loop(up, initial_position=initial_position)


@pytest.mark.parametrize("dyscope", [False, True])
@pytest.mark.parametrize("scope_factor", [0.1, 0.25, 0.5, 1])
def test_table_2_scope_factor(scope_factor, dyscope):
    up = make(4, scope_factor=scope_factor, dyscope=dyscope)
    check_against_loop(up, scope_factor=scope_factor)


@pytest.mark.parametrize("dyscope", [False, True])
@pytest.mark.parametrize("style", ["lp", "pl"])
@pytest.mark.parametrize("groups", [1, 4, 16])
def test_table_3_and_figure_5_groups(groups, style, dyscope):
    up = make(16, groups=groups, style=style, dyscope=dyscope)
    check_against_loop(up, height=2, width=3, batch=1)


@pytest.mark.parametrize("initial_position", ["bilinear", "nearest"])
@pytest.mark.parametrize("s", [2, 3])
@every_variant
def test_the_shuffled_formulation(variant, s, initial_position, device):
    """Outputs and all gradients, at a size and channel count where loops would take minutes."""
    up = make(
        72, device, 0.1, scale_factor=s, initial_position=initial_position, **VARIANTS[variant]
    )
    x = torch.randn(3, 72, 19, 23, dtype=torch.float64, device=device, requires_grad=True)
    leaves = [x, *up.parameters()]
    outs = [
        up(x),
        dysample_torch(x, *weights(up), **settings(up), initial_position=initial_position),
    ]
    assert_close(*outs, dtype=torch.float32)
    weight = torch.randn_like(outs[0])
    ours, expected = (torch.autograd.grad(out, leaves, weight) for out in outs)
    for name, one, other in zip(("x", *dict(up.named_parameters())), ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: n + m)


@every_variant
def test_gradcheck(variant, device):
    up = make(4, device, **VARIANTS[variant] | dict(groups=2))
    names, parameters = zip(*up.named_parameters(), strict=True)
    x = torch.randn(1, 4, 2, 3, dtype=torch.float64, device=device, requires_grad=True)

    def function(x, *parameters):
        return torch.func.functional_call(up, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *parameters), eps=1e-7, atol=1e-4)


@pytest.mark.parametrize(
    ("initial_position", "mode"),
    [("bilinear", dict(mode="bilinear", align_corners=False)), ("nearest", dict(mode="nearest"))],
    ids=["bilinear", "nearest"],
)
@pytest.mark.parametrize("s", [1, 2, 5])
@every_variant
def test_zero_offsets_are_plain_interpolation(variant, s, initial_position, mode, device):
    up = DySample(
        8 * s * s, scale_factor=s, initial_position=initial_position, **VARIANTS[variant]
    ).to(device)
    nn.init.zeros_(up.offset.weight)
    x = torch.randn(2, 8 * s * s, 6, 9, device=device)
    assert_close(up(x), F.interpolate(x, scale_factor=s, **mode))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_positions_are_float32_in_a_wide_half_precision_map(dtype, device):
    up = DySample(4, scale_factor=3, groups=1).to(device, dtype)
    nn.init.zeros_(up.offset.weight)
    x = torch.randn(1, 4, 2, 300).to(device, dtype)
    expected = F.interpolate(x.float(), scale_factor=3, mode="bilinear")
    assert_close(up(x), expected, dtype=dtype)
    with torch.autocast(device, dtype=torch.bfloat16):
        out = up.float()(x.float())
    # rounding positions to bfloat16 would move them by a pixel
    torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_scope_is_applied_in_float32(dtype, device):
    """Only the convolutions run in half precision."""
    up = randomize(DySample(8, dyscope=True), 0.4).to(device, dtype)
    x = torch.randn(2, 8, 3, 4).to(device, dtype)
    moved = 0.5 * up.offset(x).float() * up.scope(x).float().sigmoid()
    offset = up.sampling_offset(x)
    assert offset.dtype == torch.float32
    assert_close(offset, up.init_pos + moved)


# What the paper counts: weights without biases.
COUNTS = {"DySample": 8192, "DySample+": 16384, "DySample-S": 1024, "DySample-S+": 2048}


@every_variant
def test_the_papers_parameter_counts(variant):
    assert count_weights(DySample(256, **VARIANTS[variant])) == COUNTS[variant]


def count_weights(up: nn.Module) -> int:
    return sum(p.numel() for name, p in up.named_parameters() if not name.endswith("bias"))


@every_variant
@pytest.mark.parametrize("settings", [{}, dict(initial_std=0.02)], ids=str)
def test_initial_weights(variant, settings):
    up = DySample(1024, **VARIANTS[variant], **settings)
    unit = settings.get("initial_std", 0.001)
    mean, deviation = up.offset.weight.mean().item(), up.offset.weight.std().item()
    assert abs(deviation - unit) < 0.05 * unit and abs(mean) < 0.05 * unit
    assert not up.offset.bias.any()
    if up.dyscope:
        assert not up.scope.weight.any() and up.scope.bias is None


@pytest.mark.parametrize("dyscope", [False, True])
@pytest.mark.parametrize(("style", "groups"), [("lp", 16), ("pl", 64)])
def test_initial_offsets_have_the_spread_that_the_docstring_derives(style, groups, dyscope):
    """0.25 * 0.001 * |x|, by thousands of offsets of one pixel of large features."""
    s = 8
    up = DySample(4096, s, style, groups, dyscope)
    x = 30 * torch.randn(1, 4096, 1, 1)
    moved = (up.sampling_offset(x) - up.init_pos).view(2 * groups, s * s)
    if style == "lp":
        expected = 0.25 * 0.001 * x.norm()
    else:  # each sub-pixel sees the channels that pixel-shuffle would give it
        expected = 0.25 * 0.001 * x.view(-1, s * s).norm(dim=0)
        moved = moved / expected
        expected = torch.tensor(1.0)
    assert expected > 0.4, "not within a thousandth of a pixel"
    # The deviation is estimated from n values within expected / sqrt(2 * n), but for one in 2.
    error = moved.pow(2).mean().sqrt() / expected - 1
    weights_drawn = up.offset.weight.shape[0]
    assert abs(error) < 4 / (2 * weights_drawn) ** 0.5


def test_the_scope_starts_at_the_static_factor():
    """0.5 * sigmoid(0) = 0.25."""
    static, dynamic = DySample(8), DySample(8, dyscope=True)
    dynamic.load_state_dict(static.state_dict(), strict=False)
    x = torch.randn(2, 8, 4, 5)
    assert_close(dynamic(x), static(x))


@pytest.mark.parametrize(
    ("s", "centres"),
    [(1, [0]), (2, [-1 / 4, 1 / 4]), (3, [-1 / 3, 0, 1 / 3]), (4, [-3 / 8, -1 / 8, 1 / 8, 3 / 8])],
)
@pytest.mark.parametrize("groups", [1, 4])
def test_init_pos_is_saved_in_the_authors_order(s, centres, groups):
    """x of every point of every group, then y; within a group row by row."""
    saved = DySample(16, s, groups=groups).state_dict()["init_pos"]
    assert saved.shape == (1, 2 * groups * s * s, 1, 1) and saved.dtype == torch.float32
    along_x = [x for _ in range(groups) for _ in centres for x in centres]
    along_y = [y for _ in range(groups) for y in centres for _ in centres]
    assert_close(saved.flatten(), torch.tensor([*along_x, *along_y], dtype=torch.float32))


@pytest.mark.parametrize(
    ("saved", "ours"), [("bilinear", "nearest"), ("nearest", "bilinear")], ids=str
)
@pytest.mark.parametrize("s", [2, 3])
@pytest.mark.parametrize("strict", [True, False])
def test_a_checkpoint_of_other_initial_positions_is_refused(strict, s, saved, ours):
    state = nn.ModuleDict(dict(up=DySample(8, s, initial_position=saved))).state_dict()
    model = nn.ModuleDict(dict(up=DySample(8, s, initial_position=ours)))
    message = (
        rf"the checkpoint's up\.init_pos is that of initial_position='{saved}', but this DySample "
        f"has initial_position='{ours}'; set initial_position='{saved}'"
    )
    with pytest.raises(ValueError, match=message):
        model.load_state_dict(state, strict=strict)


@pytest.mark.parametrize("value", [0.2, float("nan")])
def test_a_checkpoint_of_unknown_initial_positions_is_refused(value):
    up = DySample(8)
    state = up.state_dict() | {"init_pos": torch.full_like(up.init_pos, value)}
    message = "init_pos is of no known initial_position .'bilinear' or 'nearest'.*cannot be used"
    with pytest.raises(ValueError, match=message):
        up.load_state_dict(state)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("s", [1, 3, 7])
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
@pytest.mark.parametrize("initial_position", ["bilinear", "nearest"])
def test_checkpoints_of_any_precision_load_with_exact_positions(initial_position, dtype, s, assign):
    expected = DySample(4, s, initial_position=initial_position)
    state = {name: value.to(dtype) for name, value in expected.state_dict().items()}
    up = DySample(4, s, initial_position=initial_position)
    up.init_pos.zero_()
    up.load_state_dict(state, assign=assign)
    assert torch.equal(up.init_pos.float(), expected.init_pos)
    assert up.init_pos.dtype == (
        torch.float64 if assign and dtype == torch.float64 else torch.float32
    )


def test_init_pos_of_another_shape_is_pytorchs_own_error():
    up, other = DySample(8), DySample(8, groups=2)
    with pytest.raises(RuntimeError, match="size mismatch for init_pos"):
        up.load_state_dict(other.state_dict())


CONVERSIONS = {
    "half": (lambda up: up.half(), torch.float16, torch.float32),
    "bfloat16": (lambda up: up.bfloat16(), torch.bfloat16, torch.float32),
    "to-float16": (lambda up: up.to(torch.float16), torch.float16, torch.float32),
    "parent": (lambda up: nn.Sequential(up).bfloat16()[0], torch.bfloat16, torch.float32),
    "half-and-back": (lambda up: up.half().float(), torch.float32, torch.float32),
    "double": (lambda up: up.double(), torch.float64, torch.float64),
}


@pytest.mark.parametrize("name", CONVERSIONS)
def test_init_pos_is_never_half_precision(name, device):
    """1/3 in bfloat16 is 0.334: a thousandth of a pixel off before anything is learned."""
    convert, weight_dtype, position_dtype = CONVERSIONS[name]
    expected = DySample(8, 3).init_pos
    up = convert(DySample(8, 3).to(device))
    assert up.offset.weight.dtype == weight_dtype
    assert up.init_pos.dtype == position_dtype and up.init_pos.device.type == device
    assert_close(up.init_pos, expected, dtype=torch.float64)
    assert up.state_dict()["init_pos"].data_ptr() == up.init_pos.data_ptr()


def test_init_pos_moves_with_the_weights():
    up = DySample(8).to("meta", torch.float16)
    assert up.offset.weight.is_meta and up.init_pos.is_meta
    assert up.init_pos.dtype == torch.float32


@pytest.mark.parametrize("variant", ["DySample+", "DySample-S+"])
def test_checkpoints_with_a_scope_bias(variant, device):
    """The authors' code had one until March 2024; it takes part, but is not trained."""
    up = make(32, device, **VARIANTS[variant])
    without = up.state_dict()
    bias = torch.randn_like(up.offset.bias)
    trained = [name for name, p in up.named_parameters() if p.requires_grad]

    up.load_state_dict(without | {"scope.bias": bias}, strict=True)
    assert torch.equal(up.scope.bias, bias)
    assert [name for name, p in up.named_parameters() if p.requires_grad] == trained
    check_against_loop(up)
    assert torch.equal(up.state_dict()["scope.bias"], bias), "saved again"

    x = torch.randn(1, 32, 3, 4, dtype=torch.float64, device=device)
    with_bias = up(x)
    up.load_state_dict(without, strict=True)
    assert up.scope.bias is None
    assert (up(x) - with_bias).abs().max() > 0.01
    check_against_loop(up)


def test_a_scope_bias_takes_the_dtype_of_the_module():
    up = DySample(8, dyscope=True).bfloat16()
    up.load_state_dict(up.state_dict() | {"scope.bias": torch.ones(32)})
    assert up.scope.bias.dtype == torch.bfloat16
    assert up(torch.randn(1, 8, 3, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_init_weights_resets_the_scope_bias_of_a_checkpoint():
    up = DySample(8, dyscope=True)
    up.load_state_dict(up.state_dict() | {"scope.bias": torch.ones(32)})
    up.init_weights()
    assert not up.scope.bias.any()


def test_a_scope_bias_for_an_upsampler_without_scope_is_an_unexpected_key():
    up = DySample(8)
    with pytest.raises(RuntimeError, match=r"Unexpected.*scope\.bias"):
        up.load_state_dict(up.state_dict() | {"scope.bias": torch.ones(32)})


def test_a_checkpoint_without_scope_leaves_the_modules_scope_as_it_is():
    up = DySample(8, dyscope=True)
    with_bias = up.state_dict() | {"scope.bias": torch.ones(32)}
    up.load_state_dict(with_bias)
    up.load_state_dict(DySample(8).state_dict(), strict=False)
    assert torch.equal(up.scope.bias, torch.ones(32))


ERRORS = {
    "style": (dict(style="LP"), ValueError, "style must be one of 'lp', 'pl', got 'LP'"),
    "initial_position": (
        dict(initial_position="bicubic"),
        ValueError,
        "initial_position must be one of 'bilinear', 'nearest', got 'bicubic'",
    ),
    "groups": (dict(groups=3), ValueError, "must be divisible by .*3.*got 32"),
    "no-groups": (dict(groups=0), ValueError, "groups must be an integer >= 1, got 0"),
    "float-groups": (dict(groups=4.0), TypeError, "groups must be an integer >= 1, got 4.0"),
    "pl-scale": (dict(style="pl", scale_factor=3), ValueError, "must be divisible by .*got 32"),
    "dyscope": (dict(dyscope="yes"), TypeError, "dyscope must be True or False, got 'yes'"),
    "scope_factor": (dict(scope_factor=0), ValueError, "scope_factor must be a number > 0.*got 0"),
    "scope-text": (dict(scope_factor="1"), ValueError, "scope_factor must be a number > 0.*'1'"),
    "scope-bool": (dict(scope_factor=True), ValueError, "scope_factor must be a number.*True"),
    "initial_std": (dict(initial_std=-1), ValueError, "initial_std must be a finite n.* -1"),
    "std-inf": (dict(initial_std=float("inf")), ValueError, "initial_std must be a .* >= 0, .*inf"),
    "std-text": (dict(initial_std="0"), TypeError, "initial_std must be a finite .* >= 0, .*'0'"),
    "std-bool": (dict(initial_std=True), TypeError, "initial_std must be a finite .*, got True"),
    "scope-nan": (dict(scope_factor=float("nan")), ValueError, "scope_factor must be a.*nan"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_what_is_accepted(name):
    kwargs, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        DySample(32, **kwargs)


def test_numbers_of_numpy_are_numbers():
    np = pytest.importorskip("numpy", reason="needs NumPy: pip install numpy")
    settings = dict(scope_factor=0.5, initial_std=0.25)
    given = {name: np.float32(value) for name, value in settings.items()}
    up = DySample(np.int64(32), groups=np.int32(8), **given)
    assert repr(up) == repr(DySample(32, groups=8, **settings))
    assert up(torch.randn(1, 32, 3, 4)).shape == (1, 32, 6, 8)


def test_arguments_by_position_are_the_authors():
    up = DySample(64, 2, "pl", 8, True)
    assert (up.scale_factor, up.style, up.groups, up.dyscope) == (2, "pl", 8, True)


def test_the_repr_names_the_settings():
    text = repr(DySample(64, style="pl", groups=8, dyscope=True))
    assert "64, scale_factor=2, style='pl', groups=8, dyscope=True, scope_factor=0.5" in text
