"""A2U against its definition in loops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmdysample import A2U
from mmdysample.upsamplers import a2u as module
from tests.reference.a2u import a2u
from tests.utils import assert_close, randomize


@pytest.mark.parametrize("guide_channels", [32, 64])
@pytest.mark.parametrize(("height", "width"), [(5, 4), (2, 7), (1, 1)])
def test_equals_its_definition(guide_channels, height, width):
    up = randomize(A2U(3, guide_channels=guide_channels), std=0.5).double()
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    guide = torch.randn(2, guide_channels, 2 * height, 2 * width, dtype=torch.float64)
    assert_close(up(x, guide), a2u(x, guide, up.state_dict()))


def test_a_sample_does_not_depend_on_the_rest_of_the_batch():
    """In training too: also the kernels that the guide is convolved with are the sample's own."""
    up = randomize(A2U(3, guide_channels=32), std=0.5).double().train()
    x = torch.randn(3, 3, 5, 4, dtype=torch.float64)
    guide = torch.randn(3, 32, 10, 8, dtype=torch.float64)
    together = up(x, guide)
    for b in range(3):
        assert_close(together[b : b + 1], up(x[b : b + 1], guide[b : b + 1]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_kernels_are_float32_in_half_precision(dtype):
    up = A2U(8, guide_channels=64).to(dtype)
    guide = torch.randn(1, 64, 8, 10).to(dtype)
    assert up.affinity(guide).dtype == torch.float32
    kernel = up.kernel(guide)
    assert kernel.dtype == torch.float32
    assert_close(kernel.sum(1), torch.ones(1, 8, 10))


def test_parameters():
    up = A2U(256)
    assert sum(p.numel() for p in up.parameters() if p.dim() > 1) == 9_728 == 38 * 256
    assert sum(p.numel() for p in up.parameters()) == 10_790


def test_what_export_uses_gives_the_same():
    guide, kernels = torch.randn(3, 5, 8, 14), torch.randn(3, 2, 6, 6)
    convolved = module._convolve_each_sample(guide, kernels)
    assert_close(module._convolve_each_sample_by_taps(guide, kernels), convolved, torch.float16)
    for size in ((2, 4), (6, 7), (13, 28)):
        guide = torch.randn(2, 3, *size)
        rows, columns = (module._averages(length, guide) for length in size)
        assert_close(rows @ guide @ columns.T, F.adaptive_avg_pool2d(guide, 6))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(scale_factor=4), "A2U is defined for scale_factor=2 only, got 4"),
        (dict(guide_channels=48), "guide_channels must be divisible by 32, got 48"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        A2U(64, **settings)
