"""Checks of what users pass to the primitives."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from mmdysample.errors import InvalidType, InvalidValue


def check_windows(
    kernel_size: Integral, scale_factor: Integral, groups: Integral = 1
) -> tuple[int, int, int]:
    """The settings as integers, NumPy's too; TypeError or ValueError unless they make sense."""
    settings = dict(kernel_size=kernel_size, scale_factor=scale_factor, groups=groups)
    for name, value in settings.items():
        accepted = "an odd integer >= 1" if name == "kernel_size" else "an integer >= 1"
        settings[name] = number = as_integer(value)
        if number is None:
            raise InvalidType(f"{name} must be {accepted}, got {value!r}")
        if number < 1 or (name == "kernel_size" and number % 2 == 0):
            raise InvalidValue(f"{name} must be {accepted}, got {value!r}")
    return settings["kernel_size"], settings["scale_factor"], settings["groups"]


def as_integer(value: object) -> int | None:
    """None for what is no integer, a bool among it."""
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
