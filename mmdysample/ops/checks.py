"""Checks of what users pass to the primitives and to the upsamplers."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import NamedTuple

import torch
from torch import Tensor

from mmdysample.errors import InvalidType, InvalidValue


class Window(NamedTuple):
    """K*K coarse pixels around each of the s*s pixels that lie in one, in g groups of channels."""

    kernel_size: int
    scale_factor: int
    groups: int


def check_window(kernel_size: int, scale_factor: int, groups: int = 1) -> Window:
    """The settings as Python's integers; TypeError or ValueError unless they make sense."""
    return Window(
        odd_int("kernel_size", kernel_size),
        positive_int("scale_factor", scale_factor),
        positive_int("groups", groups),
    )


def positive_int(name: str, value: int, accepted: str = "an integer >= 1") -> int:
    """``value`` as an int if it is an integer >= 1, also one of NumPy's.

    TypeError or ValueError naming ``name`` otherwise.
    """
    number = as_integer(value)
    if number is None:
        raise InvalidType(f"{name} must be {accepted}, got {value!r}")
    if number < 1:
        raise InvalidValue(f"{name} must be {accepted}, got {value!r}")
    return number


def odd_int(name: str, value: int) -> int:
    """As :func:`positive_int`, and odd."""
    accepted = "an odd integer >= 1"
    number = positive_int(name, value, accepted)
    if number % 2 == 0:
        raise InvalidValue(f"{name} must be {accepted}, got {value!r}")
    return number


def finite_number(
    name: str,
    value: float,
    accepted: str = "a finite number",
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
) -> float:
    """``value`` if it is a finite number that is above ``above`` and lies in ``least..most``.

    TypeError or ValueError naming ``name`` and what is ``accepted`` otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidType(f"{name} must be {accepted}, got {value!r}")
    if not (math.isfinite(value) and value > above and least <= value <= most):
        raise InvalidValue(f"{name} must be {accepted}, got {value!r}")
    return value


def as_integer(value: object) -> int | None:
    """None for what is not an integer, a bool included."""
    if isinstance(value, int | torch.SymInt):  # all that torch.compile sees
        return None if isinstance(value, bool) else value
    return int(value) if isinstance(value, Integral) else None


def check_map(name: str, value: Tensor, shape: tuple[int, ...] | None = None) -> None:
    """TypeError or ValueError unless ``value`` is a floating-point map, of ``shape`` if given."""
    if not isinstance(value, Tensor):
        raise InvalidType(f"{name} must be a floating-point tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise InvalidType(f"{name} must be a floating-point tensor, got {value.dtype}")
    if value.dim() != 4 or (shape is not None and tuple(value.shape) != shape):
        raise InvalidValue(f"{name} must be {shape or '(B, C, H, W)'}, got {tuple(value.shape)}")


def check_same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """ValueError unless both maps are on one device."""
    if value.device != other.device:
        raise InvalidValue(
            f"{name} and {other_name} must be on one device, got {value.device} and {other.device}"
        )
