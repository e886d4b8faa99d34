"""FADE against its definition in loops, and its two forms against each other."""

from __future__ import annotations

import pytest
import torch

from mmdysample import FADE
from tests.reference.fade import fade, high_to_low, low_to_high
from tests.utils import assert_close, randomize

VARIANTS = [
    dict(),
    dict(gating=False),
    dict(lite=True),
    dict(lite=True, gating=False),
    dict(kernel_size=3),
    dict(guide_channels=3),
    dict(guide_channels=3, gating=False),
    dict(scale_factor=3),
    dict(scale_factor=1),
]


def build(in_channels: int = 4, **settings) -> FADE:
    return randomize(FADE(in_channels, compressed_channels=6, **settings), std=0.5).double()


def make_inputs(up: FADE, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    s = up.scale_factor
    x = torch.randn(2, up.in_channels, height, width, dtype=torch.float64)
    guide = torch.randn(2, up.guide_channels, s * height, s * width, dtype=torch.float64)
    return x, guide


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_equals_its_definition(settings):
    up = build(**settings)
    x, guide = make_inputs(up, 5, 3)
    assert_close(up(x, guide), fade(x, guide, up.state_dict(), up.scale_factor))


@pytest.mark.parametrize("lite", [False, True])
@pytest.mark.parametrize(("height", "width"), [(5, 3), (4, 6), (1, 2)])
def test_both_forms_agree(lite, height, width):
    up = build(lite=lite, guide_channels=3)
    x, guide = make_inputs(up, height, width)
    state = up.state_dict()
    shifted = high_to_low(x, guide, state)
    assert_close(low_to_high(x, guide, state, 2), shifted)
    assert_close(up.kernel(x, guide), shifted.softmax(dim=1))


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        (dict(), 47_514),
        (dict(gating=False), 47_257),
        (dict(lite=True), 13_332),
        (dict(guide_channels=128), 47_514 - 128 * 64 + 128 * 256 + 256),
        (dict(guide_channels=128, gating=False), 47_257 - 128 * 64),
    ],
    ids=str,
)
def test_parameters(settings, parameters):
    with torch.device("meta"):
        up = FADE(256, **settings)
    assert sum(p.numel() for p in up.parameters()) == parameters


def test_names():
    common = {"E.weight", "E.bias", "D.weight", "theta.weight", "theta.bias"}
    gate, aligner = ({f"{n}.weight", f"{n}.bias"} for n in ("gate", "aligner"))
    assert FADE(8, gating=False, guide_channels=4).state_dict().keys() == common
    assert FADE(8).state_dict().keys() == common | gate
    assert FADE(8, lite=True, guide_channels=4).state_dict().keys() == common | gate | aligner


def test_initial_values():
    up = FADE(256)
    for conv in (up.E, up.D):
        limit = (6 / (256 + 64)) ** 0.5
        assert 0.98 * limit < conv.weight.abs().max() <= limit
    spread = (2 / (9 * (64 + 25))) ** 0.5
    assert up.theta.weight.std().item() == pytest.approx(spread, rel=0.03)
    assert up.theta.weight.abs().max() > 3 * spread  # normal; a uniform one ends at sqrt(3)
    assert not any(conv.bias.any() for conv in (up.E, up.theta, up.gate))
    assert up.D.bias is None


def test_gate_chooses_between_guide_and_reassembly():
    up = build()
    x, guide = make_inputs(up, 3, 4)
    torch.nn.init.zeros_(up.gate.weight)
    torch.nn.init.constant_(up.gate.bias, 100.0)
    assert_close(up(x, guide), guide)
    torch.nn.init.constant_(up.gate.bias, -100.0)
    ungated = build(gating=False)
    ungated.load_state_dict({k: v for k, v in up.state_dict().items() if "gate" not in k})
    assert_close(up(x, guide), ungated(x, guide))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_kernels_are_float32_in_half_precision(dtype):
    up = FADE(8).to(dtype)
    kernel = up.kernel(torch.randn(1, 8, 4, 5).to(dtype), torch.randn(1, 8, 8, 10).to(dtype))
    assert kernel.dtype == torch.float32
    assert_close(kernel.sum(1), torch.ones(1, 8, 10))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (dict(gating=1), TypeError, "gating must be True or False, got 1"),
        (dict(lite="yes"), TypeError, "lite must be True or False, got 'yes'"),
        (dict(kernel_size=4), ValueError, "kernel_size must be an odd integer >= 1, got 4"),
    ],
)
def test_errors(settings, error, message):
    with pytest.raises(error, match=message):
        FADE(8, **settings)
