"""What is measured: operations, their rivals, and the shapes to measure them at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdysample.ops import local_similarity, reassemble
from tests.reference.local_similarity import local_similarity_unfolded
from tests.reference.reassemble import reassemble_unfolded


@dataclass(frozen=True)
class Operation:
    """An operation of the library and another way to compute the same.

    Attributes:
        name: as in the report.
        ours, rival: (first, second, kernel_size, scale_factor) -> result.
        rival_name: the other way, in a word.
        inputs: (shape) -> the two inputs, float32 on the CPU.
    """

    name: str
    ours: Callable[..., Tensor]
    rival: Callable[..., Tensor]
    rival_name: str
    inputs: Callable[[Shape], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Shape:
    """A map (B, C, H, W), upsampled s times through windows of K*K."""

    batch: int
    channels: int
    height: int
    width: int
    kernel_size: int
    scale_factor: int

    def __str__(self) -> str:
        size = f"{self.batch}x{self.channels}x{self.height}x{self.width}"
        return f"{size}-k{self.kernel_size}-s{self.scale_factor}"


def reassemble_inputs(shape: Shape) -> tuple[Tensor, Tensor]:
    """Features, and kernels as a softmax gives them."""
    s, k = shape.scale_factor, shape.kernel_size
    x = torch.randn(shape.batch, shape.channels, shape.height, shape.width)
    logits = torch.randn(shape.batch, k * k, s * shape.height, s * shape.width)
    return x, logits.softmax(1)


def similarity_inputs(shape: Shape) -> tuple[Tensor, Tensor]:
    """Queries and keys with inner products around 1."""
    s, root = shape.scale_factor, shape.channels**0.5
    query = torch.randn(shape.batch, shape.channels, s * shape.height, s * shape.width) / root
    return query, torch.randn(shape.batch, shape.channels, shape.height, shape.width)


OPERATIONS = (
    Operation("reassemble", reassemble, reassemble_unfolded, "unfold", reassemble_inputs),
    Operation(
        "local_similarity",
        local_similarity,
        local_similarity_unfolded,
        "unfold",
        similarity_inputs,
    ),
)

# The first is the one that ratios are quoted at: a stage of a feature pyramid, 60x60 -> 120x120.
SHAPES = {
    "reassemble": (Shape(1, 256, 60, 60, 5, 2), Shape(2, 256, 25, 38, 5, 2)),
    "local_similarity": (Shape(1, 32, 60, 60, 5, 2), Shape(2, 64, 25, 38, 5, 2)),
}
