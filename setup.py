"""Packaging of mmdysample.

``configs/``, ``tools/`` and ``model-index.yml`` lie outside the package, and OpenMMLab's tools look
for them in ``<package>/.mim``. A wheel carries copies there; an editable install links to them. All
else that a build makes goes to a temporary directory, so that the source tree stays as it was and
no file of an earlier build gets into a wheel.
"""

from __future__ import annotations

import atexit
import functools
import os
import runpy
import shutil
import tempfile
from pathlib import Path

from setuptools import Command, find_packages, setup
from setuptools.command.build import build
from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info

ROOT = Path(__file__).resolve().parent
PACKAGE = "mmdysample"
MIM = ("configs", "tools", "model-index.yml")
# They set up and test a checkout and have nothing to work on in an installed package.
CHECKOUT_ONLY = ("setup_env.sh", "test.sh", "demo.sh", "demo.py")
EXTRAS = ("mmdet", "mmseg", "triton", "dev")


@functools.cache
def scratch() -> str:
    """A directory for intermediate files that goes when the build ends."""
    path = tempfile.mkdtemp(prefix="mmdysample-build-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


class BuildElsewhere(build):
    """``build`` in the scratch directory unless the user names another one."""

    def finalize_options(self) -> None:
        if self.build_base == "build":
            self.build_base = scratch()
        super().finalize_options()


class EggInfoElsewhere(egg_info):
    """``egg_info`` in the scratch directory; an sdist needs it in the source tree."""

    def finalize_options(self) -> None:
        if self.egg_base is None and "sdist" not in self.distribution.commands:
            self.egg_base = scratch()
        super().finalize_options()


class BuildWithMim(build_py):
    """``build_py`` that adds ``.mim``: copies in a build, links in an editable install."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            self.link_mim(ROOT / PACKAGE / ".mim")
        else:
            self.copy_mim(Path(self.build_lib) / PACKAGE / ".mim")

    @staticmethod
    def link_mim(mim: Path) -> None:
        if mim.is_dir():
            shutil.rmtree(mim)
        mim.mkdir()
        for name in MIM:
            if (ROOT / name).exists():
                (mim / name).symlink_to(os.path.relpath(ROOT / name, mim))

    @staticmethod
    def copy_mim(mim: Path) -> None:
        mim.mkdir(parents=True, exist_ok=True)
        for name in MIM:
            source = ROOT / name
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__", "*.py[co]", *CHECKOUT_ONLY)
                shutil.copytree(source, mim / name, ignore=ignore, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy2(source, mim / name)


def read_requirements(name: str) -> list[str]:
    """The requirements of ``requirements/<name>.txt`` without comments and empty lines."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    stripped = (line.split("#", 1)[0].strip() for line in lines)
    return [line for line in stripped if line]


def read_readme() -> str:
    path = ROOT / "README.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


COMMANDS: dict[str, type[Command]] = {
    "build": BuildElsewhere,
    "build_py": BuildWithMim,
    "egg_info": EggInfoElsewhere,
}

setup(
    name=PACKAGE,
    version=runpy.run_path(str(ROOT / PACKAGE / "version.py"))["__version__"],
    description="Learned feature upsamplers for PyTorch and OpenMMLab models",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    author="The mmdysample authors",
    license="Apache-2.0",
    keywords="upsampling DySample detection segmentation OpenMMLab PyTorch",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    install_requires=["torch>=2.1"],
    extras_require={name: read_requirements(name) for name in EXTRAS},
    cmdclass=COMMANDS,
)
