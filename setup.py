"""Packaging of mmdysample.

``configs/``, ``tools/`` and ``model-index.yml`` lie outside the package. OpenMMLab's tools look for
them in ``<package>/.mim``, so a wheel carries copies there and an editable install links to them.
"""

from __future__ import annotations

import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_requirements(name: str) -> list[str]:
    """The requirements of ``requirements/<name>.txt`` without comments and empty lines."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    stripped = (line.split("#", 1)[0].strip() for line in lines)
    return [line for line in stripped if line]


setup(
    name="mmdysample",
    version=runpy.run_path(str(ROOT / "mmdysample" / "version.py"))["__version__"],
    description="Learned feature upsamplers (DySample) for PyTorch and OpenMMLab models",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["mmdysample", "mmdysample.*"]),
    install_requires=["torch>=2.1"],
)
