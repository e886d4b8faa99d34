"""Fixtures of the engine's tests, which call the tools as a user does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.toy import draw_data
from tests.engine.zygote import shared_zygote


@pytest.fixture(scope="session")
def zygote():
    """Runs tools/train.py and tools/test.py in processes of their own."""
    return shared_zygote()


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory) -> Path:
    """Six images with boxes and label images."""
    return draw_data(tmp_path_factory.mktemp("toy") / "data")
