"""What the tests of reassemble and local_similarity share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mmdysample.ops import local_similarity, naive, reassemble
from tests.reference.local_similarity import local_similarity as local_similarity_loop
from tests.reference.reassemble import random_inputs
from tests.reference.reassemble import reassemble as reassemble_loop

# batch, channels, height, width, kernel_size, scale_factor, groups. Blocks are of 4x4 pixels for
# s <= 2, 2x2 for 3 and 4, 1x1 from 5: sizes with and without a rest, smaller than a window or one.
SHAPES = [
    (1, 4, 8, 4, 5, 2, 1),
    (2, 6, 5, 7, 5, 2, 3),
    (1, 4, 9, 6, 3, 1, 2),
    (2, 2, 3, 5, 7, 3, 1),
    (1, 3, 4, 3, 3, 4, 3),
    (1, 2, 2, 3, 5, 5, 1),
    (3, 4, 1, 1, 5, 2, 4),
    (1, 4, 6, 5, 1, 2, 2),
    (1, 1, 1, 11, 9, 2, 1),
]

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def name_of(shape: tuple[int, ...]) -> str:
    return "b{}-c{}-{}x{}-k{}-s{}-g{}".format(*shape)


class Operation(NamedTuple):
    """A primitive, its definition in loops and naively; ``groups``: whether it has them."""

    function: Callable[..., Tensor]
    loop: Callable[..., Tensor]
    naive: Callable[..., Tensor]
    groups: bool

    def settings(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """kernel_size, scale_factor and, where it takes them, groups."""
        return shape[4:] if self.groups else shape[4:6]

    def inputs(self, shape: tuple[int, ...], **options) -> list[Tensor]:
        """Two maps, values and results of which are around 1."""
        if self.groups:
            return list(random_inputs(*shape, **options))
        batch, channels, height, width, _, s, *_ = shape
        query = torch.randn(batch, channels, s * height, s * width, **options) / channels**0.5
        return [query, torch.randn(batch, channels, height, width, **options)]


OPERATIONS = {
    "reassemble": Operation(reassemble, reassemble_loop, naive.reassemble, True),
    "local_similarity": Operation(
        local_similarity, local_similarity_loop, naive.local_similarity, False
    ),
}


class Function(nn.Module):
    """A function as a module, for exporters."""

    def __init__(self, function: Callable[..., Tensor], *settings) -> None:
        super().__init__()
        self.function, self.settings = function, settings

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.function(first, second, *self.settings)


def with_gradients(
    function: Callable[..., Tensor], leaves: list[Tensor], settings: tuple, grad: Tensor
) -> list[Tensor]:
    """The result and the gradient of each leaf."""
    out = function(*leaves, *settings)
    return [out, *torch.autograd.grad(out, leaves, grad.to(out.dtype))]


def peak_memory(run: Callable[[], object]) -> int:
    """The most bytes that ``run`` held at a time, its results included, as the allocator saw it.

    The profiler reports every allocation of the CPU allocator, also those inside of operators.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=start_time)
    held = peak = 0
    for event in events:
        held += event.nbytes()
        peak = max(peak, held)
    del result
    return peak


def start_time(event) -> int:
    return event.start_ns() if hasattr(event, "start_ns") else event.start_us()
