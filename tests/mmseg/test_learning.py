"""A short training on Shapes lifts the mIoU of UPerNet with DySample well above the untrained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")
pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from tests.engine.conftest import zygote  # noqa: F401 - a fixture
from tests.engine.zygote import ROOT, TEST, TRAIN

CONFIG = ROOT / "configs" / "shapes" / "upernet_r18_dysample_shapes.py"
ITERATIONS = 60


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list[str]:
    """Settings for a small drawing of the data set and a schedule of ``ITERATIONS``."""
    data = tmp_path_factory.mktemp("learning") / "shapes"
    call = [sys.executable, ROOT / "tools" / "make_shapes.py", data]
    subprocess.run([*call, "--train", "160", "--val", "40", "--quiet"], check=True)
    parts = ("train", "val", "test")
    return [
        *(f"{part}_dataloader.dataset.data_root={data}" for part in parts),
        *(f"{part}_dataloader.num_workers=0" for part in parts),
        *(f"{part}_dataloader.persistent_workers=False" for part in parts),
        *(f"train_cfg.{name}={ITERATIONS}" for name in ("max_iters", "val_interval")),
        f"default_hooks.checkpoint.interval={ITERATIONS}",
        "param_scheduler.0.end=10",
        *(f"param_scheduler.1.{name}={ITERATIONS}" for name in ("end", "T_max")),
    ]


def save_untrained(path: Path) -> Path:
    cfg = Config.fromfile(CONFIG)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(cfg.model)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


def evaluate(checkpoint: Path, options: list[str], folder: Path, runner) -> dict[str, float]:
    work_dir = folder / checkpoint.stem
    test = runner.run(
        TEST, CONFIG, checkpoint, "--work-dir", work_dir, "--cfg-options", *options, cwd=folder
    )
    assert test.status == 0, test.stderr
    (log,) = work_dir.glob("*/[0-9]*.json")
    return json.loads(log.read_text())


def test_upernet_with_dysample_learns(options, zygote, tmp_path):  # noqa: F811
    untrained = evaluate(save_untrained(tmp_path / "untrained.pth"), options, tmp_path, zygote)
    train = zygote.run(
        TRAIN, CONFIG, "--work-dir", "train", "--cfg-options", *options, cwd=tmp_path
    )
    assert train.status == 0, train.stderr
    trained = evaluate(tmp_path / "train" / f"iter_{ITERATIONS}.pth", options, tmp_path, zygote)
    # Of twelve classes the four backgrounds alone, learned first, make 33.
    assert untrained["mIoU"] < 8
    assert trained["mIoU"] > 20
    assert trained["aAcc"] > 70
