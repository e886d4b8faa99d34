"""What upsamplers say they cost, against the operations that they make."""

from __future__ import annotations

import sys

import pytest
import torch

from mmdysample import Upsampler, build_upsampler, list_upsamplers
from mmdysample.registry import get_upsampler
from tests.reference import counting
from tests.utils import assert_close, randomize

FIXED = [name for name in list_upsamplers() if get_upsampler(name).any_size]
CASES = [
    *(dict(type=name) for name in list_upsamplers() if name not in FIXED),
    dict(type="DySample", dyscope=True),
    dict(type="DySample", style="pl", groups=8),
    dict(type="DySample", style="pl", groups=8, dyscope=True),
    dict(type="CARAFE", up_kernel=3, up_group=4),
    dict(type="IndexNet", variant="m2o"),
    dict(type="FADE", gating=False),
    dict(type="FADE", lite=True),
    dict(type="SAPA", variant="i", guide_channels=32),
    dict(type="SAPA", variant="g", kernel_size=3),
    dict(type="SAPA", variant="p", embedding_dim=16),
]


def build(cfg: dict, scale_factor: int = 2) -> torch.nn.Module:
    guide_channels = cfg.get("guide_channels", 64)
    up = build_upsampler(
        cfg, 72 if scale_factor == 3 else 32, scale_factor, guide_channels=guide_channels
    )
    return randomize(up).double().eval()


def count(up: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> int:
    """Products for two samples of 5x4; also checks that counting computes the same."""
    x = torch.randn(2, up.in_channels, 5, 4, dtype=torch.float64)
    size = (up.scale_factor * 5, up.scale_factor * 4)
    guide = torch.randn(2, up.guide_channels, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = up(x, guide)
        module = sys.modules[type(up).__module__]
        for name in ("reassemble", "local_similarity", "point_sample"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, getattr(counting, name))
        with counting.ProductCounter() as counter:
            out = up(x, guide)
    assert_close(out, expected)
    return counter.products


@pytest.mark.parametrize("cfg", CASES, ids=str)
def test_formula_equals_counted_operations(cfg, monkeypatch):
    up = build(cfg)
    assert 2 * sum(up.flops(5, 4).values()) == count(up, monkeypatch)


@pytest.mark.parametrize(
    "cfg",
    [c for c in CASES if c["type"] not in ("A2U", "IndexNet") and "guide_channels" not in c],
    ids=str,
)
def test_other_scales(cfg, monkeypatch):
    up = build(cfg, scale_factor=3)
    assert 2 * sum(up.flops(5, 4).values()) == count(up, monkeypatch)


def test_fixed_interpolations():
    """Bilinear weights are constants: four products for each value of the result."""
    results = {name: sum(build(dict(type=name)).flops(5, 4).values()) for name in FIXED}
    assert results == dict(Nearest=0, Bilinear=4 * 32 * 10 * 8)


def test_an_upsampler_that_does_not_say_is_named():
    class Silent(Upsampler):
        def upsample(self, x, guide, size):
            return x

    with pytest.raises(NotImplementedError, match="Silent does not say what it costs"):
        Silent(4, 1).flops(5, 4)


@pytest.mark.parametrize(
    ("cfg", "per_pixel"),
    [
        # Table 1 of the SAPA paper at C = 256, with its d and K
        (dict(type="CARAFE"), 256 * 64 + 36 * 25 * 64 + 4 * 25 * 256),
        (dict(type="IndexNet"), 32 * 256**2 + 12 * 256),
        (dict(type="IndexNet", variant="m2o"), 68 * 256**2 + 4 * 256),
        (dict(type="SAPA", variant="i"), 8 * 25 * 256),
        (dict(type="SAPA", variant="b"), 5 * 256 * 32 + 4 * 25 * 32 + 4 * 25 * 256),
        # A2U's 73*C + 4*K^2 + 4*K^2*C; what is done once an image is left out there
        (dict(type="A2U"), 73 * 256 + 4 * 9 + 4 * 9 * 256),
    ],
    ids=str,
)
def test_the_sapa_papers_complexity(cfg, per_pixel):
    with torch.device("meta"):
        up = build_upsampler(cfg, 256)
    once = {"A2U": 3 * 36 * 256}.get(cfg["type"], 0)
    assert sum(up.flops(7, 9).values()) == 63 * per_pixel + once
