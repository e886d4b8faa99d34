"""The window products as PyTorch operators: what autograd and torch.compile need to know of them.

As registered operators they are one node of a compiled graph, however many tiles they run through.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmdysample.errors import InvalidType, InvalidValue
from mmdysample.ops import window_tiles
from mmdysample.ops.backend import uses_triton

_library = torch.library.Library("mmdysample", "DEF")
_SETTINGS = "int kernel_size, int scale_factor, int groups, SymInt room, ScalarType dtype"


def _define(
    name: str,
    maps: tuple[str, str],
    shape: Callable[..., tuple[int, ...]],
) -> None:
    """Register a window product; :class:`_WindowProduct` differentiates it.

    Args:
        name: name of the product in :mod:`window_tiles` and :mod:`window_triton`, and after
            ``window_`` of the operator in ``torch.ops.mmdysample``.
        maps: which of the three maps of the trilinear form it takes.
        shape: (maps and settings) -> the shape of the result, in the layout of ``maps[0]``.
    """
    tiled = getattr(window_tiles, name)

    def compute(first: Tensor, second: Tensor, *settings) -> Tensor:
        fine = first if maps[0] == "pixels" else second
        if not uses_triton(name, fine.shape[2] * fine.shape[3], first, second):
            return tiled(first, second, *settings)
        from mmdysample.ops import window_triton

        return getattr(window_triton, name)(first, second, *settings)

    operator_name = f"window_{name}"
    _library.define(f"{operator_name}(Tensor {maps[0]}, Tensor {maps[1]}, {_SETTINGS}) -> Tensor")
    _library.impl(operator_name, compute, "CompositeExplicitAutograd")

    def describe(first: Tensor, second: Tensor, *settings) -> Tensor:
        return window_tiles.like_layout(first, shape(first, second, *settings), settings[-1])

    _library.impl(operator_name, describe, "Meta")
    operator = getattr(torch.ops.mmdysample, operator_name).default

    def autograd(first: Tensor, second: Tensor, *settings) -> Tensor:
        return _WindowProduct.apply(operator, maps, first, second, *settings)

    _library.impl(operator_name, autograd, "Autograd")


class _WindowProduct(torch.autograd.Function):
    """Any of the three derivatives of the trilinear form: its gradients are the other two."""

    @staticmethod
    def forward(ctx, operator, maps, first, second, *settings):
        ctx.maps, ctx.settings = maps, settings
        ctx.save_for_backward(first, second)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(first, second, *settings)

    @staticmethod
    def backward(ctx, grad):
        first, second = ctx.saved_tensors
        given = {ctx.maps[0]: first, ctx.maps[1]: second}
        (derived,) = _BY_RESULT.keys() - given.keys()
        *sizes, _ = ctx.settings
        grads = []
        for name, needed in zip(ctx.maps, ctx.needs_input_grad[2:4], strict=True):
            if not needed:
                grads.append(None)
                continue
            maps = {**given, derived: grad}
            operator, arguments = _BY_RESULT[name]
            grads.append(operator(*(maps[a] for a in arguments), *sizes, given[name].dtype))
        return None, None, *grads, None, None, None, None, None


_define(
    "weighted_sum",
    ("coarse", "kernel"),
    lambda coarse, kernel, k, s, g, *_: window_tiles.pixels_shape(coarse, s),
)
_define(
    "inner_product",
    ("pixels", "coarse"),
    lambda pixels, coarse, k, s, g, *_: window_tiles.kernel_shape(coarse, k, s, g),
)
_define(
    "scattered_sum",
    ("pixels", "kernel"),
    lambda pixels, kernel, k, s, g, *_: window_tiles.coarse_shape(pixels, s),
)

weighted_sum = torch.ops.mmdysample.window_weighted_sum
inner_product = torch.ops.mmdysample.window_inner_product
scattered_sum = torch.ops.mmdysample.window_scattered_sum

# Which product has a map as its result, and which maps it takes.
_BY_RESULT = {
    "pixels": (weighted_sum, ("coarse", "kernel")),
    "kernel": (inner_product, ("pixels", "coarse")),
    "coarse": (scattered_sum, ("pixels", "kernel")),
}


def room_beside(numel: int, dtype: torch.dtype) -> int:
    """Bytes that an operator may work in, so as to stay below one buffer of its result's size."""
    return numel * dtype.itemsize * 3 // 4


def is_exporting() -> bool:
    """Whether a graph is being made for where these operators do not exist: torch.export, ONNX."""
    return torch.onnx.is_in_onnx_export() or torch.jit.is_tracing() or _is_torch_exporting()


_is_torch_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # torch >= 2.7


def check_windows(kernel_size: int, scale_factor: int, groups: int = 1) -> None:
    """TypeError or ValueError unless the settings make sense."""
    settings = dict(kernel_size=kernel_size, scale_factor=scale_factor, groups=groups)
    for name, value in settings.items():
        accepted = "an odd integer >= 1" if name == "kernel_size" else "an integer >= 1"
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidType(f"{name} must be {accepted}, got {value!r}")
        if value < 1 or (name == "kernel_size" and value % 2 == 0):
            raise InvalidValue(f"{name} must be {accepted}, got {value!r}")


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
