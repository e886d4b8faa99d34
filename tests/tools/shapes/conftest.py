"""A small data set drawn as a user draws it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="package")
def shapes_directory(tmp_path_factory):
    """24 + 8 images of 96x128."""
    out = tmp_path_factory.mktemp("drawn") / "shapes"
    command = [sys.executable, ROOT / "tools/make_shapes.py", out, "--train", "24", "--val", "8"]
    subprocess.run([*command, "--size", "96", "128"], check=True)
    return out
