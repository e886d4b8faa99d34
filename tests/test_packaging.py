"""What gets into a wheel and an sdist, and that an installed wheel works by itself."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("pip", "setuptools", "wheel")),
    reason="needs pip, setuptools and wheel: bash tools/setup_env.sh installs them",
)

ROOT = Path(__file__).resolve().parents[1]
VERSION = runpy.run_path(str(ROOT / "mmdysample" / "version.py"))["__version__"]
CHECKOUT_ONLY = (
    "tools/setup_env.sh",
    "tools/test.sh",
    "tools/demo.sh",
    "tools/demo.py",
)
CONFIG = "faster_rcnn/faster-rcnn_r50_fpn_dysample_1x_coco.py"


def files_below(directory: Path) -> set[str]:
    """Paths of the files and links below a directory, relative to it."""
    paths = (path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(directory).as_posix() for path in paths}


def python(*arguments: str, cwd: Path, **variables: str) -> str:
    """Standard output of this Python with neither the project nor a network at hand."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment | {"PIP_NO_INDEX": "1"} | variables,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build_wheel(source: Path, into: Path) -> Path:
    python(
        *("-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", str(into), str(source)),
        cwd=into.parent,
    )
    (wheel,) = into.glob("*.whl")
    return wheel


def call_backend(function: str, source: Path, into: Path) -> Path:
    """Calls a function of the build backend as pip or build would."""
    code = f"from setuptools import build_meta; print(build_meta.{function}({str(into)!r}))"
    return into / python("-c", code, cwd=source).splitlines()[-1]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree as a fresh clone has it."""
    tree = tmp_path_factory.mktemp("pristine") / "mmdysample"
    tree.mkdir()
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "model-index.yml"):
        shutil.copy(ROOT / name, tree)
    shutil.copy(ROOT / "README.md", tree)
    ignored = shutil.ignore_patterns("__pycache__", ".mim")
    for name in ("mmdysample", "configs", "tools", "requirements"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    return tree


@pytest.fixture
def tree(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "tree")


@pytest.fixture(scope="module")
def wheel(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    before = files_below(pristine)
    wheel = build_wheel(pristine, tmp_path_factory.mktemp("wheel") / "wheels")
    assert files_below(pristine) == before, "the build left files in the source tree"
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel installed in it, and nothing else."""
    directory = tmp_path_factory.mktemp("installed")
    python(
        "-m", "pip", "install", "--no-deps", "--target", str(directory), str(wheel), cwd=directory
    )
    return directory


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def expected_names(tree: Path) -> set[str]:
    """What a wheel holds beside its metadata, counted from the source tree."""
    sources = {name for name in files_below(tree) if name.endswith(".py")}
    expected = {name for name in sources if name.startswith("mmdysample/")}
    expected.add("mmdysample/py.typed")
    for name in files_below(tree):
        is_mim = name.startswith(("configs/", "tools/")) or name == "model-index.yml"
        if is_mim and not name.startswith(CHECKOUT_ONLY):
            expected.add(f"mmdysample/.mim/{name}")
    return expected


def without_metadata(names: set[str]) -> set[str]:
    return {name for name in names if ".dist-info/" not in name}


@pytest.mark.slow
def test_wheel_holds_the_package_and_mim(pristine: Path, wheel: Path) -> None:
    names = without_metadata(names_in(wheel))
    assert names == expected_names(pristine)
    # Not an empty promise: these are what OpenMMLab's tools look for.
    assert f"mmdysample/.mim/configs/{CONFIG}" in names
    assert "mmdysample/.mim/tools/train.py" in names
    assert "mmdysample/.mim/model-index.yml" in names


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.mark.slow
def test_metadata(wheel: Path) -> None:
    metadata = metadata_of(wheel)
    assert metadata["Name"] == "mmdysample"
    assert metadata["Version"] == VERSION
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License"] == "Apache-2.0" or metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra")) == {"mmdet", "mmseg", "triton", "dev"}
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    always = [requirement for requirement in requirements if "extra" not in str(requirement.marker)]
    assert [str(requirement) for requirement in always] == ["torch>=2.1"]
    for extra, name in {"mmdet": "mmdet", "mmseg": "mmsegmentation", "triton": "triton"}.items():
        asked = {
            requirement.name for requirement in requirements if extra in str(requirement.marker)
        }
        assert name in asked


@pytest.mark.slow
def test_wheel_of_a_later_build_has_no_file_of_an_earlier_one(tree: Path, tmp_path: Path) -> None:
    build_wheel(tree, tmp_path / "first")
    (tree / "configs" / CONFIG).unlink()
    (tree / "mmdysample" / "mmcv.py").unlink()
    names = names_in(build_wheel(tree, tmp_path / "second"))
    assert without_metadata(names) == expected_names(tree)


@pytest.mark.slow
def test_wheel_from_an_sdist_is_the_same(pristine: Path, tree: Path, tmp_path: Path) -> None:
    sdist = call_backend("build_sdist", tree, tmp_path)
    shutil.unpack_archive(sdist, tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    wheel = build_wheel(unpacked, tmp_path / "wheels")
    assert without_metadata(names_in(wheel)) == expected_names(pristine)


@pytest.mark.slow
def test_editable_install_links_and_does_not_spoil_a_wheel(tree: Path, tmp_path: Path) -> None:
    before = files_below(tree)
    call_backend("build_editable", tree, tmp_path)
    call_backend("build_editable", tree, tmp_path)  # over the links of the first
    links = {f"mmdysample/.mim/{name}" for name in ("configs", "tools", "model-index.yml")}
    assert files_below(tree) - before == links
    for link in links:
        assert (tree / link).is_symlink()
        assert (tree / link).resolve() == tree / Path(link).name
    names = names_in(build_wheel(tree, tmp_path / "wheels"))
    assert without_metadata(names) == expected_names(tree)


WITHOUT_MM_PACKAGES = """
import importlib.abc, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mmcv", "mmengine", "mmdet", "mmseg", "triton"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
"""


@pytest.mark.slow
def test_installed_wheel_needs_torch_alone(installed: Path, tmp_path: Path) -> None:
    """And its plugins say what to install."""
    code = """
import importlib, torch, mmdysample
up = mmdysample.DySample(in_channels=16)
print(mmdysample.__file__, mmdysample.__version__, *up(torch.zeros(1, 16, 4, 5)).shape)
for name in ("mmcv", "mmdet", "mmseg"):
    try:
        importlib.import_module("mmdysample." + name)
    except ImportError as error:
        print(error)
"""
    output = python("-c", WITHOUT_MM_PACKAGES + code, cwd=tmp_path, PYTHONPATH=str(installed))
    first, *sentences = output.splitlines()
    path, *rest = first.split()
    assert Path(path).parent == installed / "mmdysample"
    assert rest == [VERSION, "1", "16", "8", "10"]
    for name, sentence in zip(("mmcv", "mmdet", "mmseg"), sentences, strict=True):
        assert f"mmdysample.{name} needs {name}" in sentence and "pip install" in sentence


@pytest.mark.slow
def test_configs_and_tools_of_the_installed_wheel_are_found(
    installed: Path, tmp_path: Path
) -> None:
    """By mmengine, by this project's inference, and by the tool that writes the tables."""
    pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
    name = Path(CONFIG).stem
    (tmp_path / "child.py").write_text(f"_base_ = 'mmdysample::{CONFIG}'\n")
    code = f"""
from mmengine.config import Config
from mmengine.infer import BaseInferencer
import mmdysample.engine.config  # tells mmengine of the package
from mmdysample.inference import config_path
from mmengine.utils import get_installed_path
models = BaseInferencer.list_models("mmdysample")  # prints them, too
print(get_installed_path("mmdysample"))
print(Config.fromfile("child.py").model.neck.upsample_cfg.type)
print({name!r} in models)
print(config_path({name!r}))
"""
    output = python("-W", "ignore", "-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    package, upsampler, listed, path = output.splitlines()[-4:]
    mim = installed / "mmdysample" / ".mim"
    assert Path(package) == installed / "mmdysample"
    assert (mim / "tools" / "train.py").is_file()
    assert (upsampler, listed) == ("DySample", "True")
    assert Path(path) == mim / "configs" / CONFIG
    tables = python(str(mim / "tools" / "results.py"), cwd=tmp_path, PYTHONPATH=str(installed))
    assert f"configs/{CONFIG}) | paper | 37.4 |".replace("dysample_1x", "nearest_1x") in tables


def requirements_of(name: str) -> list[Requirement]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return [Requirement(text) for line in lines if (text := line.split("#")[0].strip())]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


LOCKED = {canonical(requirement.name): requirement for requirement in requirements_of("lock")}
# Nothing that the environment needs; see the comments in the files.
NOT_LOCKED = {"pre-commit"}


def test_lock_pins_every_package_exactly_and_once() -> None:
    assert len(LOCKED) == len(requirements_of("lock"))
    for requirement in LOCKED.values():
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], requirement


def test_lock_has_no_torchvision_and_one_opencv() -> None:
    assert "torchvision" not in LOCKED
    assert [name for name in LOCKED if name.startswith("opencv")] == ["opencv-python-headless"]


@pytest.mark.parametrize("extra", ["mmdet", "mmseg", "triton", "dev"])
def test_locked_versions_are_what_the_extras_accept(extra: str) -> None:
    for requirement in requirements_of(extra):
        name = canonical(requirement.name)
        if name not in NOT_LOCKED:
            (pin,) = LOCKED[name].specifier
            assert requirement.specifier.contains(Version(pin.version)), requirement
