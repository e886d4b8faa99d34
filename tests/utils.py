"""What tests of several modules share."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor, nn

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]

# Relative and absolute, for values around 1: a few roundings of the dtype (2**-53, 2**-24, 2**-11
# and 2**-8), for float64 and float32 grown by the cancellation in sampling coordinates.
TOLERANCES = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))),
    reason="needs a C++ compiler: torch.compile calls c++, g++ or clang++ from the PATH",
)

# The paper's four variants of DySample.
DYSAMPLE_VARIANTS = {
    "DySample": dict(),
    "DySample+": dict(dyscope=True),
    "DySample-S": dict(style="pl", groups=8),
    "DySample-S+": dict(style="pl", groups=8, dyscope=True),
}


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype | None = None) -> None:
    """Fail unless shapes are equal and values are within the tolerance of ``dtype``.

    ``dtype`` is the lowest precision that ``actual`` was computed in; by default its own.
    """
    tolerance = TOLERANCES[dtype or actual.dtype]
    torch.testing.assert_close(
        actual.detach().cpu().double(),
        expected.detach().cpu().double(),
        rtol=tolerance,
        atol=tolerance,
    )


def assert_close_on_average(
    actual: Tensor, expected: Tensor, dtype: torch.dtype | None = None
) -> None:
    """As :func:`assert_close`, of the root mean square of all differences.

    For whole modules in half precision, where among thousands of random values one is far off.
    """
    assert actual.shape == expected.shape
    expected = expected.detach().cpu().double()
    error = (actual.detach().cpu().double() - expected).norm() / expected.norm()
    assert error < TOLERANCES[dtype or actual.dtype], f"a relative error of {error}"


def fit(x: Tensor, height: int, width: int) -> Tensor:
    """The first rows and columns, and the last one again for each that is missing."""
    rows = [min(row, x.shape[2] - 1) for row in range(height)]
    columns = [min(column, x.shape[3] - 1) for column in range(width)]
    return x[:, :, rows][:, :, :, columns]


def randomize(module: nn.Module, std: float = 0.1) -> nn.Module:
    """Give every parameter random values, so that no term of the result is zero or symmetric."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=std)
    return module
