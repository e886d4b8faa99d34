"""SAPA against its definition in loops."""

from __future__ import annotations

import pytest
import torch

from mmdysample import SAPA
from tests.reference.sapa import sapa
from tests.utils import assert_close, randomize

CASES = [
    *(dict(variant=variant) for variant in "bgp"),
    dict(variant="i", guide_channels=5),
    *(dict(variant=variant, normalize_self=True) for variant in "gp"),
    *(dict(normalization=h) for h in ("relu", "sigmoid", "softplus", "none")),
    *(dict(kernel_size=k) for k in (1, 3, 7)),
    *(dict(embedding_dim=d) for d in (16, 128)),
    dict(scale_factor=3),
    dict(scale_factor=1, variant="g"),
]


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_equals_its_definition(settings):
    up = SAPA(5, **dict(guide_channels=3) | settings).double()
    randomize(up, std=0.5)
    s = up.scale_factor
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    guide = torch.randn(2, up.guide_channels, 4 * s, 3 * s, dtype=torch.float64)
    known = ("kernel_size", "normalization", "normalize_self", "norm", "scale_factor")
    expected = sapa(
        x,
        guide,
        up.state_dict(),
        up.variant,
        **{key: settings[key] for key in known if key in settings},
    )
    assert_close(up(x, guide), expected)


@pytest.mark.parametrize("variant", "ibgp")
def test_the_form_with_group_normalisation_equals_its_definition(variant):
    channels = 64 if variant == "i" else 32
    up = randomize(SAPA(64, variant=variant, norm="group", guide_channels=channels).double(), 0.3)
    x = torch.randn(2, 64, 3, 2, dtype=torch.float64)
    guide = torch.randn(2, channels, 6, 4, dtype=torch.float64)
    assert_close(up(x, guide), sapa(x, guide, up.state_dict(), variant, norm="group"))


def test_group_normalisation_needs_whole_groups():
    with pytest.raises(ValueError, match="norm='group' needs in_channels divisible by 32, got 48"):
        SAPA(48, norm="group", guide_channels=64)
    with pytest.raises(ValueError, match="guide_channels divisible by 32, got 48"):
        SAPA(64, norm="group", guide_channels=48)
    with pytest.raises(ValueError, match="norm must be one of 'layer', 'group', got 'batch'"):
        SAPA(64, norm="batch")


def test_both_forms_start_with_weights_of_the_same_spread():
    """Only the group normalisation's are not cut off at two (100 times the deviation)."""
    for norm in ("layer", "group"):
        up = SAPA(512, norm=norm)
        assert 0.019 < up.q.weight.std() < 0.021 and not up.q.bias.any()
        assert torch.equal(up.norm_x.weight, torch.ones(512))


def test_similarity_outside_the_map_is_zero_and_takes_part_in_the_softmax():
    up = SAPA(4, variant="i")
    # With weight 0 and bias b, q = k = b and all similarities inside are |b|^2.
    torch.nn.init.zeros_(up.norm_x.weight)
    torch.nn.init.zeros_(up.norm_y.weight)
    torch.nn.init.constant_(up.norm_x.bias, 0.5)
    torch.nn.init.constant_(up.norm_y.bias, 1.0)
    out = up(torch.ones(1, 4, 6, 7), torch.randn(1, 4, 12, 14))
    inside, e = 9, torch.tensor(2.0).exp()
    # In a corner 9 of 25 pixels are of the map, with value 1 and similarity 4 * 0.5 * 1.
    assert_close(out[0, 0, 0, 0], inside * e / (inside * e + 16))
    assert_close(out[0, 0, 6, 6], torch.tensor(1.0))


def test_normalizations_divide_by_the_sum_and_epsilon_or_are_the_similarity():
    x, guide = torch.randn(1, 8, 5, 4), torch.randn(1, 8, 10, 8)
    torch.manual_seed(1)
    plain = randomize(SAPA(8, normalization="none"), std=0.5)
    similarity = plain.kernel(x, guide)
    for h, function in {
        "exp": torch.exp,
        "relu": torch.relu,
        "sigmoid": torch.sigmoid,
        "softplus": torch.nn.functional.softplus,
    }.items():
        up = SAPA(8, normalization=h)
        up.load_state_dict(plain.state_dict())
        weights = function(similarity.double())
        # With it, a window without any positive similarity has a kernel of zeros.
        epsilon = 0 if h == "exp" else 1e-6
        expected = weights / (weights.sum(1, keepdim=True) + epsilon)
        assert_close(up.kernel(x, guide), expected, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("variant", ["i", "b", "g", "p"])
def test_kernels_are_float32_in_half_precision(variant, dtype):
    up = randomize(SAPA(8, variant=variant), std=0.5).to(dtype)
    kernel = up.kernel(torch.randn(1, 8, 4, 5).to(dtype), torch.randn(1, 8, 8, 10).to(dtype))
    assert kernel.dtype == torch.float32
    assert_close(kernel.sum(1), torch.ones(1, 8, 10))


@pytest.mark.parametrize(
    ("variant", "linear", "total"),
    [
        ("i", 0, 1_024),
        ("b", 16_384, 17_472),
        # three projections of 256 x 32, and the gate's 256
        ("g", 24_832, 24_832 + 3 * 32 + 1 + 1_024),
        ("p", 24_576, 24_576 + 3 * 32 + 1_024),
    ],
)
def test_parameters(variant, linear, total):
    up = SAPA(256, variant=variant)
    assert sum(p.numel() for p in up.parameters() if p.dim() > 1) == linear
    assert sum(p.numel() for p in up.parameters()) == total


@pytest.mark.parametrize(
    ("variant", "layers"), [("i", ""), ("b", "q k"), ("g", "q_y q_x k gate"), ("p", "q_y q_x k")]
)
def test_names(variant, layers):
    names = ["norm_y", "norm_x", *layers.split()]
    expected = {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
    assert SAPA(8, variant=variant).state_dict().keys() == expected


def test_initial_values():
    up = SAPA(256, variant="g", embedding_dim=128)
    for layer in (up.q_y, up.q_x, up.k):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.03)
        assert not layer.bias.any()
    assert up.norm_x.weight.eq(1).all() and not up.norm_x.bias.any()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (dict(variant="x"), ValueError, "variant must be one of 'i', 'b', 'g', 'p', got 'x'"),
        (dict(variant="i", guide_channels=4), ValueError, "guide_channels must be in_channels=8"),
        (dict(kernel_size=2), ValueError, "kernel_size must be an odd integer >= 1, got 2"),
        (dict(embedding_dim=0), ValueError, "embedding_dim must be an integer >= 1, got 0"),
        (
            dict(normalization="softmax"),
            ValueError,
            "normalization must be one of 'exp', 'relu', 'sigmoid', 'softplus', 'none', got",
        ),
        (dict(normalize_self=1), TypeError, "normalize_self must be True or False, got 1"),
    ],
)
def test_errors(settings, error, message):
    with pytest.raises(error, match=message):
        SAPA(8, **settings)
