"""Whether a call is traced by an exporter or transformed by PyTorch's function transforms.

Both follow PyTorch's basic operators only, so such a call is computed with those.
"""

from __future__ import annotations

import torch
from torch.autograd import forward_ad

_is_torch_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # torch >= 2.7
_is_compiling = getattr(torch.compiler, "is_compiling", None) or torch._utils.is_compiling
_COMPILER_TRACES_TRANSFORMS = torch.__version__ >= (2, 4)


def is_compiling() -> bool:
    """Whether torch.compile or torch.export traces this call."""
    return _is_compiling()


def is_exporting() -> bool:
    """Whether a graph is being made for where our operators do not exist: torch.export, ONNX."""
    return torch.onnx.is_in_onnx_export() or torch.jit.is_tracing() or _is_torch_exporting()


def is_transforming() -> bool:
    """Whether torch.func (grad, jvp, vmap ...) or forward-mode differentiation is active."""
    if _is_compiling() and not _COMPILER_TRACES_TRANSFORMS:
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
