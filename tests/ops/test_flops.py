"""The FLOPs of the primitives in PyTorch's counter, against what the upsamplers say they cost."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmdysample import build_upsampler
from mmdysample.ops import point_sample
from mmdysample.ops.backend import use_backend
from mmdysample.ops.flops import FORMULAS
from tests.ops.triton_cases import needs_triton

BATCH, HEIGHT, WIDTH = 2, 6, 7
# Upsamplers all of whose products are made by convolutions, linear layers and the primitives
CFGS = [
    dict(type="CARAFE", up_group=2),
    dict(type="DySample"),
    dict(type="DySample", style="pl", groups=2),
    dict(type="SAPA", variant="b"),
    dict(type="SAPA", variant="i"),
]
FORMATS = [torch.contiguous_format, torch.channels_last]


def count(function, *inputs: torch.Tensor, backward: bool) -> int:
    inputs = [value.requires_grad_(backward) for value in inputs]
    with FlopCounterMode(custom_mapping=FORMULAS, display=False) as counter:
        out = function(*inputs)
        if backward:
            out.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("cfg", CFGS, ids=str)
def test_a_multiply_accumulate_is_two_flops_and_each_gradient_costs_the_same(cfg, memory_format):
    up = build_upsampler(cfg, 64)
    x = torch.randn(BATCH, 64, HEIGHT, WIDTH).contiguous(memory_format=memory_format)
    guide = torch.randn(BATCH, 64, 2 * HEIGHT, 2 * WIDTH).contiguous(memory_format=memory_format)
    inputs = (x, guide) if up.guided else (x,)
    parts = up.flops(HEIGHT, WIDTH)
    expected = 2 * BATCH * sum(parts.values())
    forward = count(up, *inputs, backward=False)
    both = count(up, *inputs, backward=True)
    assert abs(forward - expected) <= 2 * BATCH * shared_weights(up)
    assert abs(both - 3 * forward) <= 4 * BATCH * shared_weights(up)


def shared_weights(up) -> int:
    """Products that only some paths make: those of the weights of sampling."""
    return 4 * 4 * up.groups * HEIGHT * WIDTH if hasattr(up, "groups") else 0


@needs_triton
def test_the_operators_of_triton_count_as_those_of_pytorch():
    inputs = torch.randn(1, 8, 3, 2), torch.randn(1, 16, 3, 2)

    def sample(x, offset):
        return point_sample(x, offset, 2, 2)

    for backward in (False, True):
        counts = []
        for backend in ("torch", "triton"):
            with use_backend(backend):
                counts.append(count(sample, *inputs, backward=backward))
        assert counts[0] == counts[1] == (3 if backward else 1) * 2 * 4 * 24 * (8 + 2)


def test_rows_that_are_only_added_have_no_products():
    table, rows = torch.randn(5, 3), torch.tensor([[0, 1], [4, 4]])
    weights = torch.ones(2, 2)
    embedding_bag = torch.nn.functional.embedding_bag
    for weighted, flops in ((None, 0), (weights, 2 * 4 * 3)):
        with FlopCounterMode(custom_mapping=FORMULAS, display=False) as counter:
            embedding_bag(rows, table, mode="sum", per_sample_weights=weighted)
        assert counter.get_total_flops() == flops
