"""Short trainings of the configs for Shapes, as a user starts them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from mmdysample.engine.checkpoint import load_checkpoint_file
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


def write_short_config(config: Path, directory: Path, model: str = "") -> None:
    """Write ``directory/config.py``: four iterations of two images, a checkpoint after two.

    Three images are evaluated, of which the second has no known depth. ``model`` is what the
    config sets in its model.
    """
    shapes = directory / "shapes"
    call = [sys.executable, ROOT / "tools" / "make_shapes.py", shapes, "--size", "64", "64"]
    subprocess.run([*call, "--train", "8", "--val", "3"], check=True)
    unknown = sorted((shapes / "depth" / "validation").glob("*.png"))[1]
    assert cv2.imwrite(str(unknown), np.zeros((64, 64), np.uint16))
    lines = [
        f'_base_ = "{config}"',
        f"model = dict({model})",
        "train_cfg = dict(max_iters=4, val_interval=4)",
        "default_hooks = dict(checkpoint=dict(interval=2, max_keep_ckpts=3))",
        'custom_imports = dict(imports=["mmdysample.mmseg"], allow_failed_imports=False)',
        *(
            f"{part}_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, "
            f'dataset=dict(data_root="{shapes}/"))'
            for part in PARTS
        ),
    ]
    (directory / "config.py").write_text("\n".join(lines) + "\n")


def training_state(path: Path) -> dict[str, torch.Tensor]:
    """Of a checkpoint: weights, statistics of batch normalization, the optimizer's moments."""
    checkpoint = load_checkpoint_file(path)
    moments = {
        f"{number}.{name}": value
        for number, of_parameter in checkpoint["optimizer"]["state"].items()
        for name, value in of_parameter.items()
    }
    assert any(moments[f"0.{name}"].any() for name in ("exp_avg", "exp_avg_sq"))
    return {**checkpoint["state_dict"], **moments}


def train(config: Path, options: list[str], directory: Path) -> dict:
    """Train in ``directory/train``; the scores of the evaluation at the end."""
    arguments = ("--work-dir", "train", "--cfg-options", *options)
    run = shared_zygote().run(TRAIN, config, *arguments, cwd=directory)
    assert run.status == 0, run.stderr
    (log,) = (directory / "train").glob("*/vis_data/scalars.json")
    return json.loads(log.read_text().splitlines()[-1])


def best_constant_depth(directory: Path) -> tuple[float, float]:
    """The least abs_rel and the least rmse in meters that one depth for all pixels can have.

    As the metric does: means over depth maps, of the pixels above 1 mm and below 10 m.
    """
    constants = np.arange(0.3, 10, 0.05)[:, None]
    errors = []
    for path in sorted(directory.glob("*.png")):
        depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) / 1000
        valid = depth[(depth > 1e-3) & (depth < 10)]
        difference = constants - valid
        errors.append([(abs(difference) / valid).mean(1), (difference**2).mean(1) ** 0.5])
    abs_rel, rmse = np.mean(errors, axis=0)
    return abs_rel.min(), rmse.min()
