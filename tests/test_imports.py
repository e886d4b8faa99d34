"""Who may import whom, and that the library needs torch alone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mmdysample.engine

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mmdysample"
TRITON = PACKAGE / "ops/triton"

# A part imports from itself and from parts of a lower layer, never the other way.
LAYERS = {
    "mmdysample.version": 0,
    "mmdysample.errors": -1,  # for everybody
    "mmdysample.atomic": 0,
    "mmdysample.registry": 0,
    "mmdysample.state_dict": 0,
    "mmdysample.ops": 0,
    "mmdysample.upsamplers": 1,
    "mmdysample.swap": 1.5,
    "mmdysample": 2,
    "mmdysample.upsample_model": 3,
    "mmdysample.mmcv": 4,
    "mmdysample.coco": 3,
    "mmdysample.hosts": 3,
    "mmdysample.images": 4,
    "mmdysample.mmdet": 5,
    "mmdysample.mmseg": 6,  # its MaskFormer is mmdet's
    "mmdysample.engine": 7,
    "mmdysample.inference": 8,
    "tools": 9,
}
# What `import mmdysample` reaches needs torch alone.
CORE = [part for part, layer in LAYERS.items() if layer <= LAYERS["mmdysample"]]
FILES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "tools").rglob("*.py")])


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str | None:
    """The longest entry of LAYERS that holds ``module``; None for other packages."""
    if module.split(".")[0] not in ("mmdysample", "tools"):
        return None
    names = module.split(".")
    for length in range(len(names), 0, -1):
        part = ".".join(names[:length])
        # modules of the package itself are named one by one
        if part in LAYERS and (part != "mmdysample" or length == len(names)):
            return part
    raise AssertionError(f"say in LAYERS where {module} stands")


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, inside functions too."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, node.module or ""]).strip(".")
            for alias in node.names:
                submodule = ROOT.joinpath(*base.split("."), alias.name)
                is_module = submodule.is_dir() or submodule.with_suffix(".py").exists()
                yield f"{base}.{alias.name}" if is_module else base


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_direction_of_imports(path):
    part = part_of(module_name(path))
    for name in imports(path):
        assert name.split(".")[0] != "tests", "nothing outside of the tests imports from them"
        other = part_of(name)
        if other not in (None, part):
            assert LAYERS[other] < LAYERS[part], f"{part} must not import {name}"


CORE_FILES = [path for path in FILES if part_of(module_name(path)) in CORE]


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_imports_torch_alone(path):
    packages = {name.split(".")[0] for name in imports(path)}
    allowed = {"torch", "mmdysample", *sys.stdlib_module_names}
    # imported where Triton is chosen, never before
    if path.parent == TRITON or path.name == "kernel_check.py":
        allowed.add("triton")
    assert packages <= allowed


def test_the_core_is_what_it_is_meant_to_be():
    names = {module_name(path) for path in CORE_FILES}
    assert {"mmdysample", "mmdysample.ops.point_sample", "mmdysample.upsamplers.dysample"} <= names


def test_the_engine_lists_its_files():
    listed = re.findall(r"^  (\S+?)/? {2,}", mmdysample.engine.__doc__, re.MULTILINE)
    files = [path.name for path in (PACKAGE / "engine").glob("[!_]*")]
    assert sorted(listed) == sorted(files)


OPENMMLAB = ("mmcv", "mmengine", "mmdet", "mmseg", "cv2")


def python(code: str, *missing: str) -> subprocess.CompletedProcess:
    """Run ``code`` in a Python in which the packages ``missing`` are not installed."""
    code = f"import sys; sys.modules.update(dict.fromkeys({missing!r})); {code}"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_the_library_works_without_openmmlab():
    code = "import torch, mmdysample as m; print(m.DySample(8)(torch.zeros(1, 8, 2, 3)).shape)"
    result = python(code, *OPENMMLAB)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "torch.Size([1, 8, 4, 6])"


EXTRAS = dict(mmcv="mmdet", mmdet="mmdet", mmseg="mmseg")
IMPORT_PLUGINS = f"""
import importlib, mmdysample
print([name for name in {OPENMMLAB!r} if name in sys.modules])
sys.modules.update(dict.fromkeys({OPENMMLAB!r}))
for name in {list(EXTRAS)!r}:
    try:
        importlib.import_module("mmdysample." + name)
    except ImportError as error:
        print(error)
"""


def test_openmmlab_is_imported_where_it_is_needed_and_what_is_missing_is_said():
    imported, *sentences = python(IMPORT_PLUGINS).stdout.strip().splitlines()
    assert imported == "[]"
    for (name, extra), sentence in zip(EXTRAS.items(), sentences, strict=True):
        assert sentence.startswith(f"mmdysample.{name} needs {name}")
        assert f"pip install 'mmdysample[{extra}]'" in sentence


@pytest.mark.slow
@pytest.mark.parametrize("missing", [(), ("mmdet",)], ids=["mmdet", "no-mmdet"])
def test_mmseg_brings_mmdets_hosts_where_mmdet_is_installed(missing):
    """And UpsampleModel in any case."""
    pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")
    pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
    code = (
        "import mmdysample.mmseg; from mmengine.registry import MODELS; "
        "print('mmdysample.mmdet' in sys.modules, 'UpsampleModel' in MODELS.module_dict)"
    )
    result = python(code, *missing)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(not missing), "True"]
