"""What the documents show works as it stands there, and what they name exists."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from mmdysample.upsamplers.base import Upsampler
from tests.swap.stand_ins import STAND_INS

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def code_of(document: str) -> list[str]:
    text = (ROOT / document).read_text()
    blocks = re.findall(r"^ *```python\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in blocks]


def run(blocks: list[str]) -> dict:
    names = {"__name__": "document"}
    for block in blocks:
        exec(compile(block, "document", "exec"), names)
    return names


@pytest.mark.slow
def test_plain_pytorch(tmp_path, monkeypatch, capsys):
    """Every example of the page in turn; the one that trains learns."""
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("onnxscript", reason="needs onnxscript: bash tools/setup_env.sh brings it")
    names = run(code_of("docs/pytorch.md"))
    assert names["y"].shape == (1, 256, 60, 80)
    assert names["iou"] > 0.9
    losses = [float(x) for x in re.findall(r"loss (\d\.\d+)", capsys.readouterr().out)]
    assert losses[-1] < losses[0] / 3
    assert (tmp_path / "dysample.onnx").stat().st_size > 0


OTHER_PACKAGES = ("ultralytics", "segmentation_models_pytorch", "torchvision", "timm")


def about(package: str) -> list[str]:
    """The code of docs/any_model.md that imports another package."""
    uses = re.compile(rf"^(import|from) {package}\b", re.MULTILINE)
    return [block for block in code_of("docs/any_model.md") if uses.search(block)]


def upsamplers_of(model: nn.Module) -> dict[str, Upsampler]:
    return {name: m for name, m in model.named_modules() if isinstance(m, Upsampler)}


def test_any_model(tmp_path, monkeypatch, capsys):
    """The table is the printed one; what is said to stay the same does, and training goes on."""
    monkeypatch.chdir(tmp_path)
    others = {block for package in OTHER_PACKAGES for block in about(package)}
    names = run([block for block in code_of("docs/any_model.md") if block not in others])
    printed = capsys.readouterr().out
    table, *losses = re.split("step [0-9]+: loss ", printed)
    assert f"```\n{table}```" in (ROOT / "docs/any_model.md").read_text()
    first, last, swapped_first, swapped_last = map(float, losses)
    assert last < first / 1.5 and swapped_first < first / 1.5 and swapped_last < swapped_first
    torch.testing.assert_close(names["after"], names["before"], rtol=0, atol=1e-5)
    trained, loaded = names["model"], names["loaded"]
    images = names["images"]
    assert torch.equal(loaded(images), trained(images))
    assert not torch.allclose(trained(images), names["before"], atol=1e-2)
    assert [*upsamplers_of(loaded)] == ["ups.0.upsampling.0", "ups.1.upsampling.0"]
    assert [type(up).__name__ for up in upsamplers_of(names["guided"]).values()] == ["FADE"] * 2
    assert names["guided"](images).shape == (4, 2, 32, 32)


def stub(monkeypatch, name: str, **members) -> None:
    """Let ``import name`` give a module of these members, in new packages."""
    package = None
    for path in itertools.accumulate(name.split("."), "{}.{}".format):
        module = ModuleType(path)
        monkeypatch.setitem(sys.modules, path, module)
        if package is not None:
            setattr(package, path.rpartition(".")[2], module)
        package = module
    vars(package).update(members)


def test_any_model_of_segmentation_models(monkeypatch):
    stub(monkeypatch, "segmentation_models_pytorch", Unet=lambda *a, **k: STAND_INS["Unet"].build())
    names = run(about("segmentation_models_pytorch"))
    assert [*upsamplers_of(names["model"])] == [site.name for site in STAND_INS["Unet"].sites]


def test_any_model_of_timm(monkeypatch):
    stub(monkeypatch, "timm", create_model=lambda *a, **k: STAND_INS["HRNetFuse"].build())
    names = run(about("timm"))
    assert [*upsamplers_of(names["model"])] == [site.name for site in STAND_INS["HRNetFuse"].sites]


def test_any_model_of_torchvision(monkeypatch):
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = STAND_INS["TorchvisionFPN"].build()

    stub(
        monkeypatch,
        "torchvision.models.detection",
        retinanet_resnet50_fpn=lambda weights, weights_backbone: Detector(),
    )
    names = run(about("torchvision"))
    sites = [f"backbone.{site.name}" for site in STAND_INS["TorchvisionFPN"].sites]
    assert [*upsamplers_of(names["model"])] == sites


def test_any_model_of_ultralytics(monkeypatch):
    """The trainer's model has upsamplers, and takes over those of the model it starts from."""

    class DetectionTrainer:
        def get_model(self, cfg=None, weights=None, verbose=True):
            model = STAND_INS["YOLO"].build()
            model.load = lambda other: model.load_state_dict(other.state_dict(), strict=False)
            return model

    stub(monkeypatch, "ultralytics.models.yolo.detect", DetectionTrainer=DetectionTrainer)
    trainer, _ = about("ultralytics")
    trainer = run([trainer])["DySampleTrainer"]()
    first = trainer.get_model("yolo.yaml")
    assert [*upsamplers_of(first)] == ["model.3", "model.6"]
    with torch.no_grad():
        first.model[3].offset.weight.fill_(0.5)
    second = trainer.get_model("yolo.yaml", weights=first)
    assert torch.equal(second.model[3].offset.weight, first.model[3].offset.weight)


def test_the_first_lines_of_the_readme():
    blocks = [block for block in code_of("README.md") if "import torch" in block]
    assert run(blocks)["y"].shape == (1, 256, 60, 80)


def test_state_dicts_with_the_authors_names_load():
    (example,) = code_of("docs/moving.md")
    names = run([example])
    theirs = names["theirs"]["ker_generator.compressor_en.weight"]
    assert torch.equal(names["up"].E.weight, theirs)


@pytest.mark.slow
def test_the_example_upsampler_passes_the_contract_tests(tmp_path):
    (example,) = code_of("CONTRIBUTING.md")
    (tmp_path / "example_upsampler.py").write_text(example)
    slow = "compile or export or onnx"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "example_upsampler"]
    command += ["-p", "no:cacheprovider", "tests/upsamplers/test_contract.py"]
    command += ["-k", f"MyUpsampler and not ({slow})"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed and int(passed.group(1)) > 20, result.stdout[-500:]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_paths_lead_somewhere(document):
    text = document.read_text()
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    wrong = [x for x in links if "://" not in x and not (document.parent / x).exists()]
    # Paths from the root of the project, without those that have a placeholder or a pattern.
    named = re.findall(r"\b(?:tools|tests|mmdysample|configs|docs)/[\w./{},*+-]+", text)
    named = [path.rstrip(".,") for path in named if not re.search(r"[{}*]|NAME", path)]
    wrong += [path for path in named if not (ROOT / path).exists()]
    assert not wrong


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_tests_that_a_document_names_exist(document):
    text = document.read_text()
    for path, name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", text):
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), name
