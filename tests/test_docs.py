"""What the documents show works as it stands there, and what they name exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

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
