"""Fixtures for the tests of the primitives."""

from __future__ import annotations

import pytest

from mmdysample.ops import kernel_check


@pytest.fixture(autouse=True)
def _first_use_of_kernels(monkeypatch) -> None:
    """Kernels count as proved: their own tests compare them, and a check takes a second each.

    (The tests of the check have another fixture of this name.)
    """
    monkeypatch.setattr(kernel_check, "_found", {})
    monkeypatch.setattr(kernel_check, "_try", lambda *_: None)
