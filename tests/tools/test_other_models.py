"""tools/analysis/other_models.py, and that docs/other_models.md says the same."""

from __future__ import annotations

import ast
import copy
import re
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from tools.analysis import other_models as tool

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/other_models.md").read_text()


def test_the_document_has_what_the_tool_tries():
    written = dict(
        re.findall(r"^### (.*)\n(?:[^#]*\n)?```python\nmodel = ([^`]*)```", DOCUMENT, re.M)
    )
    assert {key: ast.dump(ast.parse(text)) for key, text in written.items()} == {
        key: ast.dump(ast.parse(text)) for key, text in tool.WRITE.items()
    }
    rows = re.findall(r"^\| [^|]+ \| \[([^]]+)\]\(#([^)]+)\) \| `([^`]+)` \|", DOCUMENT, re.M)
    assert [(config, key) for key, _, config in rows] == [
        (f"{family}::{config}", key)
        for family, configs in tool.MODELS.items()
        for config, key in configs.items()
    ]
    assert [anchor for _, anchor, _ in rows] == [
        re.sub(r"[^\w-]", "", key.lower().replace(" ", "-")) for key, _, _ in rows
    ]


SEGFORMER = "segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024"
HOST = tool.WRITE["SegformerHead"]


@pytest.mark.slow
def test_a_model_is_tried(monkeypatch, capsys):
    """One that is as it must be, and what is said of others."""
    models = {text: tool.build("mmseg", SEGFORMER, text) for text in (HOST, "dict()")}
    faults = []

    def build(family, name, text):
        model = copy.deepcopy(models[text])
        for spoil in faults if text == HOST else ():
            spoil(model)
        return model

    monkeypatch.setattr(tool, "build", build)
    monkeypatch.setattr(tool, "SIZE", (64, 64))
    monkeypatch.setattr(sys, "argv", ["other_models.py", "segformer_mit-b0"])
    assert tool.main() == 0
    out = capsys.readouterr().out
    assert re.search(rf"^mmseg::{SEGFORMER}: ok, 6 upsamplers, loss [\d.]+ \(\d+ s\)$", out, re.M)
    assert out.endswith("1 of 1 models are ok\n")
    for spoil, sentence in FAULTS:
        faults[:] = [spoil]
        assert tool.main() == 1
        out = capsys.readouterr().out
        assert sentence in out and out.endswith("0 of 1 models are ok\n")


def first_stage(model: torch.nn.Module) -> torch.nn.Module:
    return model.decode_head.upsample_modules[0]


FAULTS = [
    (
        lambda model: setattr(model, "added", torch.nn.Linear(1, 1)),
        "UserError: upstream's state dict differs in ['added.weight', 'added.bias']",
    ),
    (
        lambda model: first_stage(model).offset.requires_grad_(False),
        "decode_head.upsample_modules.0.offset.weight has the gradient None",
    ),
    (
        lambda model: first_stage(model).register_forward_hook(lambda _, __, out: out * torch.nan),
        "UserError: the losses are ",
    ),
]
