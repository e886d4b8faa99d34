"""The names of the authors' modules load: same numbers, same result."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmdysample import A2U, FADE, SAPA, IndexNet, build_upsampler, list_upsamplers
from mmdysample.upsamplers import Upsampler
from tests.utils import randomize

FADE_KERNEL = {
    "ker_generator.compressor_en.weight": "E.weight",
    "ker_generator.compressor_en.bias": "E.bias",
    "ker_generator.compressor_de.weight": "D.weight",
    "ker_generator.content_encoder.weight": "theta.weight",
    "ker_generator.content_encoder.bias": "theta.bias",
}
FADE_GATE = {"gate_generator.conv.weight": "gate.weight", "gate_generator.conv.bias": "gate.bias"}
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
NORMS = {f"norm_{m}.{p}": f"norm_{m}.{p}" for m in "xy" for p in ("weight", "bias")}


def branch(theirs: str, ours: str) -> dict[str, str]:
    names = ["0.weight", *(f"1.{name}" for name in BATCH_NORM), "3.weight"]
    return {f"{theirs}.{name}": f"{ours}.{name}" for name in names}


def both(*pairs: tuple[str, str]) -> dict[str, str]:
    """Weight and bias of each pair of layers."""
    return {f"{theirs}.{p}": f"{ours}.{p}" for theirs, ours in pairs for p in ("weight", "bias")}


# Settings here, and name there -> name here of all that the module holds.
MODULES = {
    "FADE": (FADE, {}, FADE_KERNEL | FADE_GATE),
    "FADE ungated": (FADE, dict(gating=False), FADE_KERNEL),
    "FADE-Lite": (FADE, dict(lite=True), FADE_KERNEL | FADE_GATE),
    "SAPA-B": (SAPA, dict(variant="b"), NORMS | both(("q", "q"), ("k", "k"))),
    "SAPA-I": (SAPA, dict(variant="i"), NORMS),
    "SAPA-G": (
        SAPA,
        dict(variant="g"),
        NORMS | both(("qy", "q_y"), ("qx", "q_x"), ("gate", "gate"), ("k", "k")),
    ),
    "SAPA with groups": (SAPA, dict(norm="group"), NORMS | both(("q", "q"), ("k", "k"))),
    "IndexNet HIN": (IndexNet, {}, branch("indexnet", "index")),
    "IndexNet M2O": (
        IndexNet,
        dict(variant="m2o"),
        {k: v for n in range(4) for k, v in branch(f"indexnet{n + 1}", f"index.{n}").items()},
    ),
    "A2U": (
        A2U,
        {},
        both(
            ("bconv_U.1", "U"),
            ("bconv_V.1", "V"),
            ("bconv_UP.1", "P"),
            ("bnu.0", "norm_u"),
            ("bnv.0", "norm_v"),
        ),
    ),
}


def build(name: str) -> Upsampler:
    cls, settings, _ = MODULES[name]
    return randomize(cls(64, **settings))


def published(name: str, state: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """``state``, of a module of ours below ``prefix``, as the authors' module saves it."""
    theirs = {ours: name for name, ours in MODULES[name][2].items()}
    renamed = {}
    for key, value in state.items():
        own = key.removeprefix(prefix)
        # Their second SAPA has 1x1 convolutions in place of linear layers.
        convolution = name == "SAPA with groups" and own in ("q.weight", "k.weight")
        renamed[prefix + theirs[own]] = value[:, :, None, None] if convolution else value
    if name == "A2U":
        renamed[f"{prefix}bconv_DP.1.weight"] = torch.randn(4, 64, 1, 1)
    return renamed


@pytest.mark.parametrize("name", MODULES)
def test_the_authors_names_load(name):
    source, target = build(name).eval(), build(name).eval()
    state = published(name, source.state_dict())
    kept = dict(state)
    result = target.load_state_dict(state, strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    x, guide = torch.randn(2, 64, 3, 5), torch.randn(2, 64, 6, 10)
    assert torch.equal(target(x, guide), source(x, guide))
    assert state.keys() == kept.keys(), "the caller's dict was changed"


@pytest.mark.parametrize("name", MODULES)
def test_a_missing_parameter_is_still_named(name):
    state = published(name, build(name).state_dict())
    gone = next(iter(MODULES[name][2].items()))
    del state[gone[0]]
    result = build(name).load_state_dict(state, strict=False)
    assert result.missing_keys == [gone[1]] and not result.unexpected_keys


DOCUMENT = Path(__file__).parents[2] / "docs/checkpoints.md"


@pytest.mark.parametrize("name", list_upsamplers())
def test_the_document_names_every_parameter(name):
    """Layers and single tensors, in the section of the upsampler, or in the line that it shares."""
    titles = re.split(r"^## ", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    sections = [text for text in titles if name in text.splitlines()[0].split(", ")]
    state = build_upsampler(dict(type=name), 64).state_dict()
    assert len(sections) == 1 or not state
    for key in state:
        layer, _, last = key.rpartition(".")
        beside = rf"`{re.escape(layer)}\.\w+`.*`\.{last}`"
        assert f"`{key}`" in sections[0] or re.search(beside, sections[0]), key
