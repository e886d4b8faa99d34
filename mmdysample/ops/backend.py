"""Which path computes a primitive: PyTorch's own operators, or fused Triton kernels.

The Triton kernels run on NVIDIA GPUs. They are chosen by the device of the tensors, never by the
caller's code; a primitive's result does not depend on the path beyond rounding. A kernel that does
not prove this on the machine at hand is not used (:mod:`kernel_check`). Which path was taken and
why is logged at debug level by the logger ``mmdysample``.

``MMDYSAMPLE_BACKEND`` in the environment, :func:`set_backend` and :func:`use_backend` take

- ``auto``: Triton wherever it can be used (the default);
- ``torch``: never Triton;
- ``triton``: Triton, or a RuntimeError that says why it cannot be used.

With ``TRITON_INTERPRET=1`` in the environment before the first import, ``triton`` also works on
CPU tensors: Triton's interpreter runs the kernels, slowly, which is how they are tested.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

import torch
from torch import Tensor

from mmdysample.errors import InvalidValue
from mmdysample.ops import kernel_check
from mmdysample.ops.tracing import is_compiling, is_transforming

BACKENDS = ("auto", "torch", "triton")
VARIABLE = "MMDYSAMPLE_BACKEND"
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Positions within one map are counted in 32 bits, with room for a block beyond its end. Everything
# else is counted in 64.
MAX_PIXELS = 2**31 - 2**16

_logger = logging.getLogger("mmdysample")
# Plain values of the module: torch.compile reads them while it traces, and guards on them.
_backend = os.environ.get(VARIABLE, "auto")
_interpreted = os.environ.get("TRITON_INTERPRET") == "1"


def get_backend() -> str:
    """'auto', 'torch' or 'triton'.

    Raises:
        ValueError: the environment variable has another value.
    """
    return _checked(_backend, VARIABLE)


def set_backend(backend: str) -> None:
    """Use ``backend``, one of 'auto', 'torch' and 'triton', from now on.

    Raises:
        ValueError: another value.
    """
    global _backend
    _backend = _checked(backend, "backend")


def _checked(backend: str, source: str) -> str:
    if backend not in BACKENDS:
        raise InvalidValue(f"{source} must be one of {', '.join(BACKENDS)}, got {backend!r}")
    return backend


@contextlib.contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """:func:`set_backend` for the body of a ``with`` statement, in every thread."""
    before = get_backend()
    set_backend(backend)
    try:
        yield
    finally:
        set_backend(before)


def uses_triton(operation: str, pixels: int, *maps: Tensor) -> bool:
    """Whether the Triton kernels compute ``operation`` on ``maps``.

    Args:
        operation: "weighted_sum", "inner_product", "scattered_sum" or "point_sample".
        pixels: of a result's channel, s*H * s*W.
        maps: all floating-point tensors that go in; on one device.

    Raises:
        RuntimeError: Triton is demanded and cannot be used.
    """
    reason = _reason_against(pixels, maps)
    if reason is None:
        dtypes = tuple([value.dtype for value in maps])
        device = maps[0].device
        reason = kernel_check.reason_against(operation, dtypes, device.type, device.index)
    if reason is not None and _backend == "triton":
        raise RuntimeError(
            f"{VARIABLE}=triton or set_backend('triton') demands Triton for {operation}, "
            f"but {reason}"
        )
    if not is_compiling() and _logger.isEnabledFor(logging.DEBUG):
        path = "Triton" if reason is None else f"PyTorch: {reason}"
        shapes = ", ".join(str(tuple(value.shape)) for value in maps)
        _logger.debug("%s of %s by %s", operation, shapes, path)
    return reason is None


def _reason_against(pixels: int, maps: tuple[Tensor, ...]) -> str | None:
    """What a call has against Triton; None if nothing."""
    _checked(_backend, VARIABLE)
    if _backend == "torch":
        return "Triton is switched off"
    kind = maps[0].device.type
    if kind != "cuda" and not (kind == "cpu" and _interpreted and _backend == "triton"):
        return f"tensors are on {kind}, and Triton is for CUDA"
    if torch.version.hip:
        return "only NVIDIA's GPUs are supported"
    for value in maps:
        if value.dtype not in DTYPES:
            return f"{value.dtype} is not supported"
    if pixels > MAX_PIXELS:
        return f"a channel of the result has more than {MAX_PIXELS} pixels"
    if is_transforming():
        return "a transform of torch.func or forward-mode differentiation is active"
    return None
