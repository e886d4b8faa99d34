"""What a resumed run takes from its checkpoint, and what it refuses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

from mmengine.logging import HistoryBuffer

from mmdysample.engine.checkpoint import CheckpointError, load_checkpoint_file
from mmdysample.engine.restore import read_position
from tests.engine.tiny import ready_runner, write_tiny_config

STEPS = [dict(type="MultiStepLR", milestones=[1, 3], by_epoch=False)]


@pytest.fixture
def runner(tmp_path):
    config = write_tiny_config(tmp_path / "config.py", param_scheduler=STEPS)
    return ready_runner(config, tmp_path / "w")


@pytest.fixture
def checkpoint(runner, tmp_path) -> dict:
    """That of the beginning of a run."""
    runner.save_checkpoint(str(tmp_path), "start.pth", save_param_scheduler=True)
    return load_checkpoint_file(tmp_path / "start.pth")


def resume(runner, checkpoint: dict, directory: Path) -> None:
    torch.save(checkpoint, directory / "changed.pth")
    runner.resume(str(directory / "changed.pth"))


@pytest.mark.parametrize(
    "milestones",
    [{1: 1, 3: 10**13}, {1: 1, 3: "text"}, {1: -1, 3: 1}, {"text": 1}, {1.5: 1}],
)
def test_milestones_are_counts(runner, checkpoint, milestones, tmp_path):
    """Their counts are compared, not counted up."""
    checkpoint["param_schedulers"][0]["milestones"] = Counter(milestones)
    with pytest.raises(CheckpointError, match=r"param_schedulers\.0\.milestones"):
        resume(runner, checkpoint, tmp_path)


def test_milestones_are_taken(runner, checkpoint, tmp_path):
    checkpoint["param_schedulers"][0]["milestones"] = Counter({2: 1, 5: 2})
    resume(runner, checkpoint, tmp_path)
    assert runner.param_schedulers[0].milestones == Counter({2: 1, 5: 2})


@pytest.mark.parametrize("rate", [2**31, -(2**127)])
def test_whole_numbers_that_may_overflow(runner, checkpoint, rate, tmp_path):
    checkpoint["optimizer"]["param_groups"][0]["lr"] = rate
    with pytest.raises(CheckpointError, match=r"optimizer\.param_groups\.0\.lr"):
        resume(runner, checkpoint, tmp_path)


@pytest.mark.parametrize("value", [10**400, 10**5000], ids=["400", "5000"])
@pytest.mark.parametrize(
    "place",
    [
        ("meta", "epoch"),
        ("message_hub", "runtime_info", "best_score"),
        ("optimizer", "param_groups", 0, "lr"),
    ],
    ids=lambda place: place[-1],
)
def test_numbers_without_end(runner, checkpoint, place, value, tmp_path):
    *above, key = place
    owner = checkpoint
    for step in above:
        owner = owner[step]
    owner[key] = value
    with pytest.raises(CheckpointError, match="more than 128 bits"):
        resume(runner, checkpoint, tmp_path)


def test_scalars_that_were_never_logged(runner, checkpoint, tmp_path):
    """mmengine cannot hold them, and there is nothing in them."""
    full = HistoryBuffer([0.5], [1])
    checkpoint["message_hub"]["log_scalars"] = dict(empty=HistoryBuffer(), full=full)
    resume(runner, checkpoint, tmp_path)
    scalars = runner.message_hub.log_scalars
    assert "empty" not in scalars and scalars["full"].current() == 0.5


@pytest.mark.parametrize("seed", [0, 3_000_000_000, 2**32 - 1, None])
def test_every_seed_of_a_config(checkpoint, seed):
    checkpoint["meta"]["seed"] = seed
    assert read_position(checkpoint, "x.pth").seed == seed


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, True])
def test_no_seed_of_a_config(checkpoint, seed):
    checkpoint["meta"]["seed"] = seed
    with pytest.raises(CheckpointError, match=r"meta\['seed'\] .* from 0 to 4294967295"):
        read_position(checkpoint, "x.pth")
