"""IndexNet against its definition in loops."""

from __future__ import annotations

import pytest
import torch

from mmdysample import IndexNet
from tests.reference.indexnet import indexnet
from tests.utils import assert_close, randomize


@pytest.mark.parametrize("variant", ["hin", "m2o"])
def test_equals_its_definition(variant):
    up = randomize(IndexNet(3, variant=variant, guide_channels=4), std=0.5).double().eval()
    for name, buffer in up.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
        elif name.endswith("running_mean"):
            buffer.normal_()
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    guide = torch.randn(2, 4, 10, 8, dtype=torch.float64)
    assert_close(up(x, guide), indexnet(x, guide, up.state_dict(), variant))


@pytest.mark.parametrize(
    ("variant", "weights", "norms"),
    [
        ("hin", 32 * 256**2 + 8 * 256, 4 * 256),
        ("m2o", 68 * 256**2, 8 * 256),
    ],
)
def test_parameters(variant, weights, norms):
    with torch.device("meta"):
        up = IndexNet(256, variant=variant)
    sizes = [p.numel() for p in up.parameters() if p.dim() > 1]
    assert sum(sizes) == weights
    assert sum(p.numel() for p in up.parameters()) == weights + norms


def test_guide_of_other_channels():
    up = IndexNet(8, variant="m2o", guide_channels=16)
    assert sum(p.numel() for p in up.parameters() if p.dim() > 1) == 64 * 16**2 + 4 * 16 * 8
    assert up(torch.randn(1, 8, 3, 2), torch.randn(1, 16, 6, 4)).shape == (1, 8, 6, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(scale_factor=3), "IndexNet is defined for scale_factor=2 only, got 3"),
        (dict(variant="o2o"), "variant must be one of 'hin', 'm2o', got 'o2o'"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        IndexNet(8, **settings)
