"""CARAFE against its definition in loops."""

from __future__ import annotations

import pytest
import torch

from mmdysample import CARAFE
from tests.reference.carafe import carafe
from tests.utils import assert_close, randomize


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(up_kernel=3),
        dict(up_group=3),
        dict(scale_factor=3, up_kernel=7),
        dict(scale_factor=1, encoder_kernel=5),
    ],
    ids=str,
)
def test_equals_its_definition(settings):
    up = randomize(CARAFE(6, compressed_channels=8, **settings), std=0.5).double()
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    known = {key: settings[key] for key in settings if key != "encoder_kernel"}
    assert_close(up(x), carafe(x, up.state_dict(), **known))


def test_taps_outside_the_map_are_zero_and_the_rest_is_not_normalised_again():
    up = CARAFE(3)
    torch.nn.init.zeros_(up.content_encoder.weight)
    out = up(torch.ones(1, 3, 6, 7))
    # 25 equal taps: a corner's window holds 9 pixels of the map, an inner one 25.
    assert_close(out[0, 0, 0, 0], torch.tensor(9 / 25))
    assert_close(out[0, 0, 2 * 3, 2 * 3], torch.tensor(1.0))
    assert_close(out[0, 0, 2 * 3, 0], torch.tensor(15 / 25))


def test_parameters():
    up = CARAFE(256)
    shapes = {key: tuple(value.shape) for key, value in up.state_dict().items()}
    assert shapes == {
        "channel_compressor.weight": (64, 256, 1, 1),
        "channel_compressor.bias": (64,),
        "content_encoder.weight": (100, 64, 3, 3),
        "content_encoder.bias": (100,),
    }
    assert sum(p.numel() for p in up.parameters()) == 74_148


def test_initial_values():
    up = CARAFE(256)
    limit = (6 / (256 + 64)) ** 0.5
    weight = up.channel_compressor.weight
    assert 0.98 * limit < weight.abs().max() <= limit
    assert weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.03)
    assert up.content_encoder.weight.std().item() == pytest.approx(0.001, rel=0.03)
    assert not up.channel_compressor.bias.any() and not up.content_encoder.bias.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_kernels_are_float32_in_half_precision(dtype):
    up = CARAFE(8).to(dtype)
    kernel = up.kernel(torch.randn(1, 8, 4, 5, dtype=dtype))
    assert kernel.dtype == torch.float32
    assert_close(kernel.sum(1), torch.ones(1, 8, 10))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(up_kernel=4), "up_kernel must be an odd integer >= 1, got 4"),
        (dict(encoder_kernel=2), "encoder_kernel must be an odd integer >= 1, got 2"),
        (dict(up_group=3), "in_channels must be divisible by up_group=3, got 8"),
        (
            dict(initial_kernel="bilinear"),
            "initial_kernel must be one of 'average', 'nearest', got 'bilinear'",
        ),
        (dict(compressed_channels=0), "compressed_channels must be an integer >= 1, got 0"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        CARAFE(8, **settings)
