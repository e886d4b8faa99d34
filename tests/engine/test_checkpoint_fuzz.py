"""Checkpoints that somebody changed: nothing acts or crashes, each loads or gets a sentence."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from tests.engine.mutations import KINDS, deep, flipped, replaced, saved, wrong_types
from tests.engine.tiny import write_tiny_config
from tests.engine.zygote import TEST, TRAIN

WITNESS = Path(__file__).with_name("witness.py")


@pytest.fixture(scope="module")
def good(zygote, tmp_path_factory) -> bytes:
    """A checkpoint that tools/train.py wrote after an epoch."""
    directory = tmp_path_factory.mktemp("tiny")
    config = write_tiny_config(directory / "config.py", train_cfg=dict(by_epoch=True, max_epochs=1))
    result = zygote.run(TRAIN, config, "--work-dir", directory / "w", cwd=directory)
    assert result.status == 0, result.stderr
    return (directory / "w" / "epoch_1.pth").read_bytes()


def outcomes(zygote, directory: Path, cases: list[dict]) -> list[str]:
    job = directory / "job.json"
    job.write_text(json.dumps(cases))
    result = zygote.run(WITNESS, job, cwd=directory)
    assert result.status == 0, result.stderr
    return json.loads((directory / "job.json.results").read_text())


def wrong(results: dict[Any, str], *refusals: str) -> dict[Any, str]:
    """The cases that did not load and did not get one sentence either."""
    return {
        name: outcome
        for name, outcome in results.items()
        if outcome != "loaded" and (not outcome.startswith(refusals) or "\n" in outcome)
    }


def test_the_witness_sees(zygote, tmp_path):
    """Else the tests here would prove nothing."""
    scripts = {
        "acts": "open('CANARY', 'w')",
        "runs": "import os; os.system('true CANARY')",
        "dies": "import os; os.kill(os.getpid(), 11)",
        "fails": "raise ValueError",
        "is-fine": "",
    }
    cases = []
    for name, script in scripts.items():
        (tmp_path / f"{name}.py").write_text(script)
        cases.append(dict(argv=[str(tmp_path / f"{name}.py")], cwd=str(tmp_path)))
    results = [outcome.split()[0] for outcome in outcomes(zygote, tmp_path, cases)]
    assert results == ["acted", "acted", "died", "crashed", "loaded"]


@pytest.mark.parametrize(
    "kind", [*KINDS, pytest.param(deep, marks=pytest.mark.slow)], ids=lambda kind: kind.__name__
)
def test_changed_checkpoints(kind, good, zygote, tmp_path):
    """What loads is compared with nothing: it may be any data."""
    cases = []
    for number, content in enumerate(kind(good, random.Random(kind.__name__))):
        path = tmp_path / f"{number}.pth"
        path.write_bytes(content)
        cases.append(dict(load=str(path)))
    results = outcomes(zygote, tmp_path, cases)
    assert wrong(dict(enumerate(results)), "checkpoint ") == {}
    assert len(list(tmp_path.iterdir())) == len(cases) + 2
    assert len(cases) / 4 < sum(outcome != "loaded" for outcome in results)


def well_formed(good: bytes, canary: Path) -> dict[str, bytes]:
    """What wants to act in a run, or is of the wrong kind; by what it tries."""
    program = f"open({str(canary / 'ran')!r}, 'w')\nmodel = dict(type='TinyModel')\n"
    info = ("message_hub", "runtime_info")
    group = ("optimizer", "param_groups", 0)
    changes = {
        "config-is-run": ("meta", "config", program),
        "cfg-is-run": (*info, "cfg", program),
        "best-is-a-directory": (*info, "best_ckpt", str(canary)),
        "best-is-a-file": (*info, "best_ckpt", str(canary / "precious")),
        "last-is-a-file": (*info, "last_ckpt", str(canary / "precious")),
        "kept-are-elsewhere": (*info, "keep_ckpt_ids", [f"../{canary}/precious"]),
        "kept-is-a-number": (*info, "keep_ckpt_ids", 7),
        "epoch-is-text": ("meta", "epoch", "1"),
        "epochs-without-end": ("meta", "epoch", 10**9),
        "meta-is-a-list": ("meta", [1]),
        "classes-are-arrays": ("meta", "dataset_meta", dict(classes=[np.arange(3)] * 2)),
        "hub-is-a-list": ("message_hub", []),
        "rate-is-text": (*group, "lr", "fast"),
        "switches": (*group, "capturable", True),
        "weights-are-text": ("state_dict", "layer.weight", "text"),
        "weights-of-another-shape": ("state_dict", "layer.weight", torch.zeros(5)),
        "averages-are-text": ("ema_state_dict", dict(a="text")),
        "averages-of-another-shape": ("ema_state_dict", {"module.layer.bias": torch.zeros(9)}),
    }
    return {
        **{name: replaced(good, *path, value=value) for name, (*path, value) in changes.items()},
        "weights-under-another-name": saved(dict(model=dict(a=torch.zeros(1)))),
        "nothing": saved({}),
    }


@pytest.mark.slow
def test_resumed_in_memory(good, zygote, tmp_path):
    """Values of other types: a resumed run says which it takes, and trains with those."""
    contents = well_formed(good, tmp_path / "CANARY")
    contents |= {str(n): c for n, c in enumerate(wrong_types(good, random.Random("wrong types")))}
    config = write_tiny_config(tmp_path / "config.py")
    cases = []
    for name, content in contents.items():
        (tmp_path / f"{name}.pth").write_bytes(content)
        cases.append(dict(resume=[str(config), str(tmp_path / f"{name}.pth")]))
    results = dict(zip(contents, outcomes(zygote, tmp_path, cases), strict=True))
    assert wrong(results, "checkpoint ") == {}
    taken = ("config-is-run", "best-is-a-directory", "kept-are-elsewhere", "switches")
    assert {name: results[name] for name in taken} == dict.fromkeys(taken, "loaded")
    for name in ("epoch-is-text", "rate-is-text", "weights-are-text"):
        assert results[name].startswith("checkpoint ")
    assert len(results) / 4 < sum(outcome != "loaded" for outcome in results.values())


@pytest.mark.slow
def test_through_the_tools(good, zygote, tmp_path):
    """Those that name paths and programs, and some that are damaged."""
    canary = tmp_path / "CANARY"
    canary.mkdir()
    (canary / "precious").write_text("a user's")
    config = write_tiny_config(tmp_path / "config.py", custom_hooks=[dict(type="EMAHook")])
    contents = well_formed(good, canary)
    resumed = [*list(contents)[:8], "epochs-without-end", "hub-is-a-list", "weights-are-text"]
    resumed.append("averages-of-another-shape")
    damaged = list(flipped(good, random.Random(0)))
    contents |= {"damaged": damaged[2], "cut off": damaged[-1]}

    def place(name: str, how: str) -> tuple[Path, Path]:
        directory = tmp_path / f"{name}-{how}"
        directory.mkdir()
        (directory / "epoch_1.pth").write_bytes(contents[name])
        return directory, directory / "epoch_1.pth"

    cases = {}
    for name in (*resumed, "damaged", "cut off"):
        directory, _ = place(name, "resume")
        argv = [TRAIN, config, "--resume", "--work-dir", directory]
        cases[f"{name}-resume"] = dict(argv=[*map(str, argv)], cwd=str(directory))
    for name in ("config-is-run", "weights-of-another-shape", "damaged"):
        directory, path = place(name, "load_from")
        argv = [TRAIN, config, "--cfg-options", f"load_from={path}", "--work-dir", directory / "w"]
        cases[f"{name}-load_from"] = dict(argv=[*map(str, argv)], cwd=str(directory))
        directory, path = place(name, "test")
        argv = [TEST, config, path, "--work-dir", directory]
        cases[f"{name}-test"] = dict(argv=[*map(str, argv)], cwd=str(directory))
        directory, path = place(name, "infer")
        cases[f"{name}-infer"] = dict(infer=[str(config), str(path)], cwd=str(directory))
    results = dict(zip(cases, outcomes(zygote, tmp_path, list(cases.values())), strict=True))
    # The tools print "error: " before the sentence.
    refusals = ("checkpoint ", "none of the checkpoints ", "--resume: ")
    assert wrong(results, *refusals, *(f"error: {each}" for each in refusals)) == {}
    assert [path.name for path in canary.iterdir()] == ["precious"]
    for name in ("config-is-run", "best-is-a-directory", "kept-are-elsewhere"):
        assert results[f"{name}-resume"] == "loaded"
        assert (tmp_path / f"{name}-resume" / "epoch_2.pth").exists()
