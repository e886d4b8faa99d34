"""Short trainings of the configs for Shapes, as a user starts them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.engine.zygote import ROOT, TRAIN, shared_zygote

CONFIGS = ROOT / "configs" / "shapes"
PARTS = ("train", "val", "test")


def draw_shapes(directory: Path) -> list[str]:
    """Draw the Shapes data set there; options for a config to read it in its own process."""
    call = [sys.executable, ROOT / "tools" / "make_shapes.py", directory]
    subprocess.run([*call, "--train", "80", "--val", "8"], check=True)
    return [
        *(f"{part}_dataloader.dataset.data_root={directory}/" for part in PARTS),
        *(f"{part}_dataloader.num_workers=0" for part in PARTS),
        *(f"{part}_dataloader.persistent_workers=False" for part in PARTS),
    ]


def train(config: Path, options: list[str], directory: Path) -> dict:
    """Train in ``directory/train``; the scores of the evaluation at the end."""
    arguments = ("--work-dir", "train", "--cfg-options", *options)
    run = shared_zygote().run(TRAIN, config, *arguments, cwd=directory)
    assert run.status == 0, run.stderr
    (log,) = (directory / "train").glob("*/vis_data/scalars.json")
    return json.loads(log.read_text().splitlines()[-1])
