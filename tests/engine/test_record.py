"""What is kept of the start of a training."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

from mmengine.config import Config

from mmdysample.engine.record import FILE_NAME, record_start


def start(work_dir, rank=0, **settings):
    cfg = Config(dict(work_dir=str(work_dir), a=(1, float("inf")), b={3: None}) | settings)
    log_dir = work_dir / "20260101_000000"
    log_dir.mkdir(exist_ok=True)
    runner = SimpleNamespace(cfg=cfg, rank=rank, world_size=4, log_dir=str(log_dir))
    record_start(runner, "configs/model_a.py")
    return log_dir / FILE_NAME


def test_a_start(tmp_path):
    record = json.loads(start(tmp_path, load_from="weights.pth").read_text())
    settings = record.pop("settings")
    assert record == dict(config="model_a", processes=4, resumed_from=None)
    assert (settings["a"], settings["b"]) == ([1, float("inf")], {"3": None})
    assert settings["load_from"] == "weights.pth"


@pytest.mark.parametrize(("place", "expected"), [("", "epoch_1.pth"), ("b/", "{}/b/epoch_1.pth")])
def test_a_start_that_resumes(tmp_path, place, expected):
    """A checkpoint of the same work dir by its name alone: the work dir may be moved."""
    checkpoint = f"{tmp_path}/{place}epoch_1.pth"
    record = json.loads(start(tmp_path, resume=True, load_from=checkpoint).read_text())
    assert record["resumed_from"] == expected.format(tmp_path)


def test_the_other_processes_write_nothing(tmp_path):
    assert not start(tmp_path, rank=1).exists()
