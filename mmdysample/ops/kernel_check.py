"""Whether the Triton kernels compute on this machine what PyTorch computes.

GPU, driver and Triton may not go together, and then a kernel fails, or computes something else. At
the first use of an operation in a process, for each device and dtype, a small case is computed by
Triton and by PyTorch on the CPU, and compared: milliseconds, beside the compilation, which Triton
keeps on disk. Where it raises or differs, or Triton cannot be imported, PyTorch computes from then
on, and a warning says so; none where Triton is not installed, or it or the GPU is too old.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.torch_version import TorchVersion
from torch.utils._python_dispatch import _disable_current_modes

from mmdysample.ops import naive, window_taps
from mmdysample.ops.checks import Window
from mmdysample.ops.layout import like_layout
from mmdysample.ops.precision import accumulation_dtype, float32_or_more

OLDEST_TRITON = (3, 0)
OLDEST_CAPABILITY = (7, 0)
# Relative and absolute, for values around 1: some roundings.
TOLERANCES = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
}
Pairs = list[tuple[str, Tensor, Tensor]]

_logger = logging.getLogger("mmdysample")
_found: dict[tuple, str | None] = {}
_lock = threading.RLock()


def reason_against(
    operation: str, dtypes: tuple[torch.dtype, ...], kind: str, index: int | None
) -> str | None:
    """Why the kernels of ``operation`` are not to be used on a device; None if they proved right.

    Args:
        operation: a key of ``CASES``.
        dtypes: of its two maps.
        kind, index: of the device.
    """
    key = operation, dtypes, kind, index, torch.are_deterministic_algorithms_enabled()
    with _lock:
        if key not in _found:
            if kind == "cuda" and torch.cuda.is_current_stream_capturing():
                return "a CUDA graph is captured, and its kernels have not been checked before"
            device = torch.device(kind, index)
            _found[key] = missing(device)
            if _found[key] is None:
                _found[key] = _try(operation, dtypes, device)
                if _found[key] is not None:
                    _warn(_found[key])
        return _found[key]


# Its result is a constant of what torch.compile traces, which does not look inside: what
# torch.compiler.assume_constant_result does, without importing the compiler.
reason_against._dynamo_marked_constant = True


def _warn(reason: str) -> None:
    warnings.warn(f"{reason}; PyTorch's own operators compute it", RuntimeWarning, 3)


def missing(device: torch.device) -> str | None:
    """What Triton needs and is not there; None if nothing. Imports Triton, which takes a second."""
    try:
        from triton import __version__ as version
    except ImportError:
        return "Triton is not installed"
    except Exception as error:  # it looks for drivers and compilers
        reason = f"Triton cannot be imported ({_first_line(error)})"
        _warn(reason)
        return reason
    if TorchVersion(version) < OLDEST_TRITON:
        oldest = ".".join(map(str, OLDEST_TRITON))
        return f"Triton is {version}, and {oldest} is the oldest usable"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return f"the GPU is older than compute capability {OLDEST_CAPABILITY}"
    return None


def _try(operation: str, dtypes: tuple[torch.dtype, ...], device: torch.device) -> str | None:
    where = f"{operation} of {' and '.join(map(str, dtypes))} on {device}"
    try:
        with _undisturbed(device):
            for channels_last in (False, True):
                for name, actual, expected in CASES[operation](dtypes, device, channels_last):
                    wrong = _difference(actual, expected)
                    if wrong is not None:
                        return f"Triton's {where} differs from PyTorch's in the {name} ({wrong})"
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler or a driver raises
        _logger.debug("Triton's %s fails", where, exc_info=True)
        return f"Triton's {where} fails ({_first_line(error)})"
    return None


def _first_line(error: Exception) -> str:
    (first, *_) = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {first}"


@contextlib.contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Neither tracers nor autocast nor inference mode, and with the first configurations."""
    from mmdysample.ops.triton.launch import untuned

    with (
        _disable_current_modes(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        untuned(),
    ):
        yield


def _difference(actual: Tensor, expected: Tensor) -> str | None:
    tolerance = TOLERANCES[actual.dtype]
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    error = (actual - expected).abs()
    if bool((error <= tolerance * (1 + expected.abs())).all()):  # no NaN is
        return None
    return f"by up to {error.max().item():.3g}"


# The small cases: two groups, and sizes that no block divides.

_COARSE, _FINE, _KERNEL = (1, 6, 3, 5), (1, 6, 6, 10), (1, 18, 6, 10)
_WINDOW = Window(kernel_size=3, scale_factor=2, groups=2)


def _map(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool) -> Tensor:
    """Values of -1 to 1 on the CPU, always the same."""
    values = torch.arange(torch.Size(shape).numel(), dtype=torch.float64, device="cpu")
    x = (values * 0.7 + 0.3).sin().reshape(shape).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def _weighted_sum(dtypes, device, channels_last) -> Pairs:
    from mmdysample.ops.triton import windows

    coarse, kernel = (
        _map(_COARSE, dtypes[0], channels_last),
        _map(_KERNEL, dtypes[1], channels_last),
    )
    expected = window_taps.weighted_sum(coarse, kernel, _WINDOW, dtypes[0])
    coarse, kernel = coarse.to(device), kernel.to(device)
    actual = like_layout(coarse, _FINE, dtypes[0])
    windows.weighted_sum(coarse, kernel, _WINDOW, actual)
    return [("result", actual, expected)]


def _inner_product(dtypes, device, channels_last) -> Pairs:
    from mmdysample.ops.triton import windows

    pixels, coarse = _map(_FINE, dtypes[0], channels_last), _map(_COARSE, dtypes[1], channels_last)
    dtype = accumulation_dtype(pixels, coarse)
    expected = window_taps.inner_product(pixels, coarse, _WINDOW, dtype)
    pixels, coarse = pixels.to(device), coarse.to(device)
    actual = like_layout(pixels, _KERNEL, dtype)
    windows.inner_product(pixels, coarse, _WINDOW, actual)
    return [("result", actual, expected)]


def _scattered_sum(dtypes, device, channels_last) -> Pairs:
    from mmdysample.ops.triton import windows

    pixels, kernel = _map(_FINE, dtypes[0], channels_last), _map(_KERNEL, dtypes[1], channels_last)
    expected = window_taps.scattered_sum(pixels, kernel, _WINDOW, dtypes[0])
    pixels, kernel = pixels.to(device), kernel.to(device)
    actual = like_layout(pixels, _COARSE, dtypes[0])
    windows.scattered_sum(pixels, kernel, _WINDOW, actual)
    return [("result", actual, expected)]


def _point_sample(dtypes, device, channels_last) -> Pairs:
    """Forward and backward: they are taken together."""
    from mmdysample.ops.triton import point_sample

    x, grad = (_map(shape, dtypes[0], channels_last) for shape in (_COARSE, _FINE))
    # From -2 to 2 pixels, a sixteenth or more from pixel centers, where gradients jump.
    steps = torch.arange(2 * 2 * 4 * 15, device="cpu") * 7 % 32
    offset = ((2 * steps - 31) / 16).reshape(1, 16, 3, 5).to(dtypes[1])

    exact = float32_or_more(dtypes[0])
    leaves = [t.detach().to(exact).requires_grad_() for t in (x, offset)]
    expected = naive.point_sample(*leaves, 2, 2)
    expected_x, expected_offset = torch.autograd.grad(expected, leaves, grad.to(exact))

    x, grad, offset = x.to(device), grad.to(device), offset.to(device)
    actual = point_sample.forward(x, offset, 2, 2)
    actual_x, actual_offset = point_sample.backward(grad, x, offset, 2, 2, True, True)
    return [
        ("result", actual, expected),
        ("gradient of x", actual_x, expected_x),
        ("gradient of the offsets", actual_offset, expected_offset),
    ]


CASES: dict[str, Callable[..., Pairs]] = {
    "weighted_sum": _weighted_sum,
    "inner_product": _inner_product,
    "scattered_sum": _scattered_sum,
    "point_sample": _point_sample,
}
