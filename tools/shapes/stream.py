"""Random numbers that are the same on every machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Stream:
    """The random numbers of one image, a function of (seed, split, index) alone.

    Everything is derived from the doubles of PCG64, because numpy may change how its other
    distributions use the generator from one version to the next.
    """

    def __init__(self, seed: int, split: int, index: int) -> None:
        self._generator = np.random.Generator(
            np.random.PCG64(np.random.SeedSequence([seed, split, index]))
        )

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._generator.random())

    def integer(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + int(float(self._generator.random()) * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return float(self._generator.random()) < probability

    def pick(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]

    def grid(self, height: int, width: int) -> np.ndarray:
        """Uniform numbers from [0, 1), float32 of shape (height, width)."""
        return self._generator.random((height, width)).astype(np.float32)

    def direction(self) -> tuple[float, float]:
        """A unit vector (cos, sin).

        Rounded to 20 bits: the last bit of sin and cos differs between C libraries, and nothing
        else in an image's arithmetic does (it is +, -, *, / and sqrt, which IEEE 754 fixes).
        """
        return unit_vector(self.uniform(0.0, 2.0 * math.pi))


def unit_vector(angle: float) -> tuple[float, float]:
    """(cos, sin) of an angle in radians, rounded to multiples of 2**-20."""
    unit = 2.0**20
    return round(math.cos(angle) * unit) / unit, round(math.sin(angle) * unit) / unit
