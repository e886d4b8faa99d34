"""Checkpoints that somebody changed: nothing acts or crashes, each loads or gets a sentence."""

from __future__ import annotations

import io
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmdysample.engine.reader import read
from tests.engine.mutations import KINDS, flipped, wrong_types
from tests.engine.tiny import write_tiny_config
from tests.engine.zygote import TEST, TRAIN

WITNESS = Path(__file__).with_name("witness.py")


@pytest.fixture(scope="module")
def good(zygote, tmp_path_factory) -> bytes:
    """A checkpoint that tools/train.py wrote after an epoch."""
    folder = tmp_path_factory.mktemp("tiny")
    config = write_tiny_config(folder / "config.py", train_cfg=dict(by_epoch=True, max_epochs=1))
    result = zygote.run(TRAIN, config, "--work-dir", folder / "w", cwd=folder)
    assert result.status == 0, result.stderr
    return (folder / "w" / "epoch_1.pth").read_bytes()


def outcomes(zygote, directory: Path, cases: list[dict]) -> list[str]:
    job = directory / "job.json"
    job.write_text(json.dumps(cases))
    result = zygote.run(WITNESS, job, cwd=directory)
    assert result.status == 0, result.stderr
    return json.loads((directory / "job.json.results").read_text())


def wrong(told: dict, refusals: tuple[str, ...]) -> dict:
    """The cases that did not load and did not get one sentence either."""
    return {
        name: outcome
        for name, outcome in told.items()
        if outcome != "loaded" and (not outcome.startswith(refusals) or "\n" in outcome)
    }


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_changed_checkpoints(kind, good, zygote, tmp_path):
    """What loads is compared with nothing: it may be any data. Of values of other types it is for
    a resumed run to say what it takes."""
    config = write_tiny_config(tmp_path / "config.py")
    cases = []
    for number, content in enumerate(kind(good, random.Random(kind.__name__))):
        path = tmp_path / f"{number}.pth"
        path.write_bytes(content)
        resumed = kind is wrong_types
        cases.append(dict(resume=[str(config), str(path)]) if resumed else dict(load=str(path)))
    (tmp_path / "work_dir").mkdir()
    before = sorted(tmp_path.iterdir())
    told = outcomes(zygote, tmp_path, cases)
    assert len(told) == len(cases) == KINDS[kind]
    assert wrong(dict(enumerate(told)), ("checkpoint ",)) == {}
    left = sorted(tmp_path.iterdir())
    assert [path for path in left if path not in before and "job.json" not in path.name] == []
    refused = sum(outcome != "loaded" for outcome in told)
    assert len(told) / 4 < refused <= len(told)


def hostile(good: bytes, canary: Path) -> dict[str, dict]:
    """Contents that are well-formed and want to act, or are of the wrong kind; by what they try."""
    program = f"open({str(canary / 'ran')!r}, 'w')\nmodel = dict(type='TinyModel')\n"

    def made(*path, value) -> dict:
        changed = read(io.BytesIO(good), len(good))
        owner = changed
        for step in path[:-1]:
            owner = owner[step]
        owner[path[-1]] = value
        return changed

    def info(**values) -> dict:
        changed = read(io.BytesIO(good), len(good))
        changed["message_hub"]["runtime_info"].update(best_score=-1.0, **values)
        return changed

    state = ("optimizer", "state", 0)
    group = ("optimizer", "param_groups", 0)
    weight = ("state_dict", "layer.weight")
    nested = read(io.BytesIO(good), len(good))
    return {
        "config-is-run": made("meta", "config", value=program),
        "cfg-is-run": info(cfg=program),
        "best-is-a-directory": info(best_ckpt=str(canary)),
        "best-is-a-file": info(best_ckpt=str(canary / "precious")),
        "last-is-a-file": info(last_ckpt=str(canary / "precious")),
        "kept-are-elsewhere": info(keep_ckpt_ids=[f"../{canary}/precious"]),
        "kept-are-many": info(keep_ckpt_ids=["../" * 5, 1, 2, 3]),
        "kept-is-a-number": info(keep_ckpt_ids=7),
        "epoch-is-text": made("meta", "epoch", value="1"),
        "epoch-is-negative": made("meta", "epoch", value=-1),
        "epochs-without-end": made("meta", "epoch", value=10**9),
        "iteration-is-huge": made("meta", "iter", value=2**31 - 1),
        "seed-is-text": made("meta", "seed", value="1"),
        "seed-is-huge": made("meta", "seed", value=2**40),
        "meta-is-a-list": made("meta", value=[1]),
        "classes-are-arrays": made("meta", "dataset_meta", value=dict(classes=[np.arange(3)] * 2)),
        "hub-is-a-list": made("message_hub", value=[]),
        "info-is-text": made("message_hub", "runtime_info", value="text"),
        "no-epochs": info(max_epochs=0),
        "score-is-text": info(best_score_x="text"),
        "scalars-are-numbers": made("message_hub", "log_scalars", value={"train/loss": 1}),
        "optimizer-is-a-list": made("optimizer", value=[]),
        "another-optimizer": made(*group, "betas", value=None),
        "betas-beyond": made(*group, "betas", value=(3.0, 3.0)),
        "rate-is-text": made(*group, "lr", value="fast"),
        "groups-are-none": made("optimizer", "param_groups", value=[]),
        "switches": made(*group, "capturable", value=True),
        "moment-of-another-shape": made(*state, "exp_avg", value=torch.zeros(7)),
        "moment-is-missing": made("optimizer", "state", value={0: {}}),
        "moment-of-nothing": made("optimizer", "state", value={99: {}}),
        "step-is-an-array": made(*state, "step", value=np.zeros(3)),
        "schedulers-are-none": made("param_schedulers", value=[]),
        "scheduler-without-numbers": made("param_schedulers", value=[dict(step=1, optimizer=2)]),
        "weights-are-text": made(*weight, value="text"),
        "weights-of-another-shape": made(*weight, value=torch.zeros(5)),
        "weights-are-an-array": made("state_dict", value=np.zeros(3)),
        "weights-are-nested": dict(state_dict=dict(model=nested["state_dict"])),
        "weights-under-another-name": dict(model=nested["state_dict"]),
        "names-are-numbers": dict(state_dict={1: torch.zeros(1)}),
        "ema-is-text": made("ema_state_dict", value=dict(a="text")),
        "nothing": {},
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
    told = [outcome.split()[0] for outcome in outcomes(zygote, tmp_path, cases)]
    assert told == ["acted", "acted", "died", "crashed", "loaded"]


def call(way: str, config: Path, directory: Path) -> dict:
    """How a checkpoint in a work dir is used."""
    path = directory / "epoch_1.pth"
    if way == "inferencer":
        return dict(infer=[str(config), str(path)])
    arguments = {
        "resume": (TRAIN, config, "--resume"),
        "load_from": (TRAIN, config, "--cfg-options", f"load_from={path}"),
        "test": (TEST, config, path),
    }[way]
    # A run that does not resume wants a work dir without checkpoints.
    work_dir = directory / "new" if way == "load_from" else directory
    argv = [str(part) for part in (*arguments, "--work-dir", work_dir)]
    return dict(argv=argv, cwd=str(directory))


def test_through_the_tools(good, zygote, tmp_path):
    """Each is resumed from, and used in one other way."""
    canary = tmp_path / "CANARY"
    canary.mkdir()
    (canary / "precious").write_text("a user's")
    config = write_tiny_config(tmp_path / "config.py")
    contents = {name: saved(content) for name, content in hostile(good, canary).items()}
    contents |= {f"bits-{number}": content for number, content in enumerate(some_flipped(good))}
    cases = {}
    for name, others in zip(contents, itertools.cycle(("load_from", "test", "inferencer"))):
        for way in ("resume", others):
            directory = tmp_path / f"{name}-{way}"
            directory.mkdir()
            (directory / "epoch_1.pth").write_bytes(contents[name])
            cases[f"{name}-{way}"] = call(way, config, directory)
    told = dict(zip(cases, outcomes(zygote, tmp_path, list(cases.values())), strict=True))
    refusals = ("error: checkpoint ", "error: none of the checkpoints ", "error: --resume: ")
    assert wrong(told, refusals) == {}
    assert [path.name for path in canary.iterdir()] == ["precious"]
    # What is taken and what is refused.
    for name in ("config-is-run", "best-is-a-directory", "kept-are-elsewhere", "switches"):
        assert told[f"{name}-resume"] == "loaded"
        assert (tmp_path / f"{name}-resume" / "epoch_2.pth").exists()
    for name in ("epoch-is-text", "another-optimizer", "weights-are-nested", "rate-is-text"):
        assert told[f"{name}-resume"] != "loaded"


def some_flipped(good: bytes) -> list[bytes]:
    return list(flipped(good, random.Random(0)))[80:200:30]


def saved(content: dict) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()
