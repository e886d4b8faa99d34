"""What the base class does for every upsampler, seen through the smallest subclasses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmdysample import Upsampler
from mmdysample.ops.checks import positive_int
from mmdysample.upsamplers.base import one_of


class Repeat(Upsampler):
    """Each pixel s*s times; keeps what it was called with."""

    def upsample(self, x, guide, size):
        self.called_with = guide, size
        return x.repeat_interleave(size[0] // x.shape[2], 2).repeat_interleave(
            size[1] // x.shape[3], 3
        )


class Guided(Repeat):
    guided = True


class AnySize(Repeat):
    any_size = True

    def upsample(self, x, guide, size):
        self.called_with = guide, size
        return F.interpolate(x, size=size)


class Weighted(Repeat):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.conv = nn.Conv2d(self.in_channels, self.in_channels, 1)

    def upsample(self, x, guide, size):
        return super().upsample(self.conv(x), guide, size)


X = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).view(2, 3, 4, 5)


def test_the_default_target_is_s_times():
    out = Repeat(3, 3)(X)
    assert torch.equal(out, X.repeat_interleave(3, 2).repeat_interleave(3, 3))


@pytest.mark.parametrize("size", [(8, 10), [7, 10], (8, 9), torch.Size((7, 9))], ids=str)
def test_a_smaller_target_is_cropped_at_the_end(size):
    up = Repeat(3)
    full = up(X)
    assert torch.equal(up(X, size=size), full[:, :, : size[0], : size[1]])
    assert up.called_with == (None, (8, 10)), "exactly s times is computed"


@pytest.mark.parametrize("size", [(9, 10), (8, 11), (9, 11), (7, 11)], ids=str)
def test_of_a_larger_target_the_last_row_or_column_is_repeated(size):
    up = Repeat(3)
    full = up(X)
    out = up(X, size=size)
    assert up.called_with == (None, (8, 10)), "exactly s times is computed"
    assert out.shape == (2, 3, *size)
    assert torch.equal(out[:, :, :8, :10], full[:, :, : size[0]])
    if size[0] == 9:
        assert torch.equal(out[:, :, 8], out[:, :, 7])
    if size[1] == 11:
        assert torch.equal(out[..., 10], out[..., 9])


def test_the_target_is_the_guides_size():
    up = Repeat(3)
    guide = torch.zeros(2, 7, 8, 9)
    assert up(X, guide).shape == up(X, guide, size=(8, 9)).shape == (2, 3, 8, 9)
    assert up.called_with[0] is None, "an unguided upsampler ignores the guide's values"


def test_any_size_is_reached_in_one_step():
    up = AnySize(3)
    assert up(X, size=(17, 3)).shape == (2, 3, 17, 3)
    assert up.called_with == (None, (17, 3))


def test_a_guide_is_padded_at_its_end_where_the_result_is_cropped():
    up = Guided(3, 3, guide_channels=1)
    guide = torch.arange(10.0 * 14).view(1, 1, 10, 14).repeat(2, 1, 1, 1)
    out = up(X, guide)
    seen, size = up.called_with
    assert size == (12, 15) and seen.shape == (2, 1, 12, 15)
    assert torch.equal(seen[:, :, :10, :14], guide)
    assert torch.equal(seen[:, :, 10:, :14], guide[:, :, -1:].expand(-1, -1, 2, -1))
    assert torch.equal(seen[:, :, :, 14:], seen[:, :, :, 13:14])
    assert torch.equal(out, Repeat(3, 3)(X)[:, :, :10, :14])


def test_a_guide_is_cropped_at_its_end_where_the_result_is_repeated():
    up = Guided(3, 3, guide_channels=1)
    guide = torch.arange(14.0 * 16).view(1, 1, 14, 16).repeat(2, 1, 1, 1)
    out = up(X, guide)
    seen, size = up.called_with
    assert size == (12, 15) and torch.equal(seen, guide[:, :, :12, :15])
    full = Repeat(3, 3)(X)
    assert torch.equal(out, full[:, :, [*range(12), 11, 11]][..., [*range(15), 14]])


def test_a_guide_that_fits_is_passed_as_it_is():
    up, guide = Guided(3), torch.randn(2, 3, 8, 10)
    up(X, guide)
    assert up.called_with[0] is guide


SIZES = [(6, 10), (8, 8), (10, 10), (8, 12), (0, 10), (4, 5), (80, 100)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_other_targets_are_refused(size):
    message = (
        rf"Repeat: cannot reach size \({size[0]}, {size[1]}\) from \(4, 5\): with scale_factor"
    )
    accepted = r" 2 the target is \(8, 10\), or differs by less than 2 on an axis; pad the images"
    with pytest.raises(ValueError, match=message + accepted + r".* \(size_divisor, in mmdet"):
        Repeat(3)(X, size=size)
    with pytest.raises(ValueError, match=message.replace("Repeat", "Guided")):
        Guided(3)(X, torch.zeros(2, 3, *size))


def test_targets_may_differ_by_as_much_as_s_minus_1():
    for size in [(13, 17), (19, 23), (13, 23)]:
        assert Repeat(3, 4)(X, size=size).shape == (2, 3, *size)
    for height, width in [(12, 17), (20, 23), (19, 24), (13, 16)]:
        message = rf"\({height}, {width}\).*\(16, 20\), or differs by less than 4 on an axis"
        with pytest.raises(ValueError, match=message):
            Repeat(3, 4)(X, size=(height, width))


def test_a_result_of_another_size_than_was_asked_for_is_not_hidden():
    class Wrong(Repeat):
        def upsample(self, x, guide, size):
            return super().upsample(x, guide, size)[..., :-1]

    assert Wrong(3)(X).shape == (2, 3, 8, 9)


FORWARD_ERRORS = {
    "rank": (Repeat, (X[0],), {}, ValueError, r"x must be \(B, 3, H, W\), got \(3, 4, 5\)"),
    "channels": (Repeat, (X[:, :2],), {}, ValueError, r"\(B, 3, H, W\), got \(2, 2, 4, 5\)"),
    "integers": (Repeat, (X.long(),), {}, TypeError, "float16, bfloat16, float32 or float64, got"),
    "complex": (Repeat, (X.cfloat(),), {}, TypeError, "got torch.complex64"),
    "weights": (Weighted, (X.half(),), {}, TypeError, "x is torch.float16 but the weights are"),
    "no-tensor": (Repeat, ([X],), {}, TypeError, "x must be a torch.Tensor, got list"),
    "guide-type": (Guided, (X, 1), {}, TypeError, "guide must be a torch.Tensor, got int"),
    "guide-integers": (
        Guided,
        (X, torch.zeros(2, 3, 8, 10).long()),
        {},
        TypeError,
        "guide must be floating point, got torch.int64",
    ),
    "guide-dtype": (
        Guided,
        (X, torch.zeros(2, 3, 8, 10).half()),
        {},
        TypeError,
        "guide is torch.float16 but x is torch.float32",
    ),
    "no-guide": (Guided, (X,), {}, ValueError, r" is guided.*\(B, 3, h, w\).*got None"),
    "guide-rank": (Repeat, (X, X[0]), {}, ValueError, r"must be \(2, C, h, w\), got \(3, 4, 5\)"),
    "guide-batch": (
        Repeat,
        (X, torch.zeros(1, 3, 8, 10)),
        {},
        ValueError,
        r"guide must be \(2, C, h, w\), got \(1, 3, 8, 10\)",
    ),
    "guide-channels": (
        Guided,
        (X, torch.zeros(2, 4, 8, 10)),
        {},
        ValueError,
        r"guide must be \(2, 3, h, w\), got \(2, 4, 8, 10\)",
    ),
    "guide-or-size": (
        Repeat,
        (X, torch.zeros(2, 3, 8, 10)),
        dict(size=(7, 10)),
        ValueError,
        r"size \(7, 10\) is not the guide's size \(8, 10\)",
    ),
    "one-number": (Repeat, (X,), dict(size=(8,)), ValueError, r"\(height, width\), got \(8,\)"),
    "integer-size": (Repeat, (X,), dict(size=8), ValueError, r"\(height, width\), got 8"),
    "bool-size": (Repeat, (X,), dict(size=(True, 10)), ValueError, r"width\), got \(True, 10"),
    "float-size": (Repeat, (X,), dict(size=(7.5, 10)), ValueError, r"\(height, width\), got \(7.5"),
}


@pytest.mark.parametrize("name", FORWARD_ERRORS)
def test_forward_errors_name_what_is_accepted(name):
    cls, args, kwargs, error, message = FORWARD_ERRORS[name]
    with pytest.raises(error, match=rf"^{cls.__name__}\b.*{message}"):
        cls(3)(*args, **kwargs)


def test_autocast_accepts_any_floating_dtype(device):
    up = Weighted(3).to(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert up(X.to(device, torch.bfloat16)).shape == (2, 3, 8, 10)


CONSTRUCTOR_ERRORS = {
    "zero-channels": (dict(in_channels=0), ValueError, "in_channels must be an integer >= 1"),
    "float-channels": (dict(in_channels=8.0), TypeError, "in_channels must be .*got 8.0"),
    "zero-scale": (dict(scale_factor=0), ValueError, "scale_factor must be .*got 0"),
    "negative-scale": (dict(scale_factor=-2), ValueError, "scale_factor must be .*got -2"),
    "float-scale": (dict(scale_factor=1.5), TypeError, "scale_factor must be .*got 1.5"),
    "bool-scale": (dict(scale_factor=True), TypeError, "scale_factor must be .*got True"),
    "no-scale": (dict(scale_factor=None), TypeError, "scale_factor must be .*got None"),
    "zero-guide": (dict(guide_channels=0), ValueError, "guide_channels must be .*got 0"),
    "unknown": (
        dict(scale=2),
        TypeError,
        r"has no argument 'scale' \(given 2\) \(did you mean 'scale_factor'\?\); it accepts "
        "in_channels, scale_factor, guide_channels",
    ),
}


@pytest.mark.parametrize("name", CONSTRUCTOR_ERRORS)
def test_constructor_errors_name_what_is_accepted(name):
    class Plain(Upsampler):
        def __init__(self, in_channels, scale_factor=2, *, guide_channels=None):
            super().__init__(in_channels, scale_factor, guide_channels=guide_channels)

        def upsample(self, x, guide, size):
            raise AssertionError("not called")

    settings, error, message = CONSTRUCTOR_ERRORS[name]
    with pytest.raises(error, match=message):
        Plain(**dict(in_channels=8) | settings)


def test_a_class_may_hand_its_keywords_on():
    up = Weighted(3, scale_factor=4, guide_channels=7)
    assert (up.scale_factor, up.guide_channels) == (4, 7)
    with pytest.raises(TypeError, match="scale"):
        Weighted(3, scale=4)


def test_the_channels_of_the_guide_default_to_those_of_x():
    assert Repeat(3).guide_channels == 3
    assert Repeat(3, guide_channels=7).guide_channels == 7


def test_initial_weights_are_those_of_the_layers_unless_a_class_says_otherwise():
    up = Weighted(3)
    for method in (up.init_weights, up.reset_parameters):
        with torch.no_grad():
            up.conv.weight.fill_(77)
        torch.manual_seed(1)
        method()
        torch.manual_seed(1)
        assert torch.equal(up.conv.weight, nn.Conv2d(3, 3, 1).weight)

    class Ones(Weighted):
        def init_weights(self):
            nn.init.ones_(self.conv.weight)

    up = Ones(3)
    up.reset_parameters()
    assert torch.equal(up.conv.weight, torch.ones(3, 3, 1, 1))


def test_upsample_must_be_written():
    with pytest.raises(TypeError, match="abstract"):
        Upsampler(3)


def test_checks_of_values():
    assert positive_int("groups", 1) == 1
    assert one_of("style", "a", ("a", "b")) == "a"
    with pytest.raises(ValueError, match="style must be one of 'a', 'b', got 'c'"):
        one_of("style", "c", ("a", "b"))


def test_the_repr_names_what_was_set():
    assert repr(Repeat(3, 4)) == "Repeat(3, scale_factor=4)"
    assert repr(Guided(3, guide_channels=5)) == "Guided(3, scale_factor=2, guide_channels=5)"
