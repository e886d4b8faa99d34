"""What the tests of the Triton kernels share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from mmdysample.ops import backend, kernel_check

CUDA = torch.cuda.is_available()
# Without a GPU the kernels run in Triton's interpreter (tests/conftest.py).
DEVICE = "cuda" if CUDA else "cpu"

_missing = kernel_check.missing(torch.device(DEVICE))
needs_triton = pytest.mark.skipif(
    _missing is not None, reason=f"{_missing}: pip install 'triton>=3.0' (Linux)"
)
needs_gpu = pytest.mark.skipif(
    not CUDA, reason="needs a CUDA GPU: there, python -m pytest tests/ops -k triton"
)

# A map whose strides no memory format has.
FORMATS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t.contiguous(),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "strided": lambda t: t.repeat_interleave(2, 1).repeat_interleave(3, 3)[:, ::2, :, 1::3],
}


def on(dtype: torch.dtype, *maps: Tensor) -> list[Tensor]:
    """The maps as leaves on the device of these tests."""
    return [t.detach().to(DEVICE, dtype).requires_grad_() for t in maps]


def run(
    backend_name: str,
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    settings: Sequence[int],
    grad: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """The result and the gradients of all inputs."""
    with backend.use_backend(backend_name):
        out = function(*inputs, *settings)
        grad = torch.ones_like(out) if grad is None else grad.to(out)
        return out, *torch.autograd.grad(out, inputs, grad)
