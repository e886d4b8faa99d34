"""A handful of mattes in the layout of Shapes, and a matting model of a few weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
HEIGHT, WIDTH = 40, 48


@MODELS.register_module()
class ToyMatting(BaseModel):
    """A 1x1 convolution of image and trimap, in the interface of the matting model."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 1, 1)

    def forward(
        self, inputs: list[Tensor], data_samples: list[SegDataSample], mode: str = "tensor"
    ) -> dict | list[SegDataSample]:
        losses = []
        for image, sample in zip(inputs, data_samples, strict=True):
            stacked = torch.cat([image, sample.trimap.data]).float() / 255
            alpha = self.layer(stacked[None])[0]
            if mode == "loss":
                losses.append((alpha - sample.gt_alpha.data.float() / 255).square().mean())
            values = (alpha.clamp(0, 1) * 255).to(torch.uint8)
            sample.pred_alpha = PixelData(data=values)
        return dict(loss=torch.stack(losses).mean()) if mode == "loss" else list(data_samples)


def draw_data(root: Path, count: int = 4) -> Path:
    """Disks in front of noise: ``images`` and ``matting/{alpha,fg,bg,trimap}``."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for number in range(count):
        distance = np.hypot(rows - 18 - number, columns - 22 + number)
        alpha = (255 * np.clip((12 - distance) / 4, 0, 1)).round().astype(np.uint8)
        trimap = np.where(np.abs(distance - 10) < 4, 128, np.where(alpha > 0, 255, 0))
        front, back = (random.integers(0, 256, (HEIGHT, WIDTH, 3)) for _ in range(2))
        weight = alpha[..., None] / 255
        name = f"{number:03d}.png"
        write(root / "images" / name, (weight * front + (1 - weight) * back).round())
        write(root / "matting/fg" / name, front)
        write(root / "matting/bg" / f"other-{name}", back)
        write(root / "matting/alpha" / name, alpha)
        write(root / "matting/trimap" / name, trimap)
    return root


def write(path: Path, pixels: np.ndarray, dtype: type = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels.astype(dtype))


def write_config(path: Path, data: str = "data", extra: str = "") -> Path:
    """The base config for Shapes with the toy model, two iterations long, on toy data."""
    bases: Sequence[Path] = (
        CONFIGS / "_base_/datasets/shapes_matting.py",
        CONFIGS / "_base_/matting_runtime.py",
    )
    path.write_text(
        f"""
_base_ = {[str(base) for base in bases]}
custom_imports = dict(imports=["mmdysample.mmseg", "tests.mmseg.matting.toy"])
model = dict(type="ToyMatting")
where = dict(num_workers=0, persistent_workers=False)
prefix = dict(
    img_path="images", trimap_path="matting/trimap", alpha_path="matting/alpha"
)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        data_root="{data}",
        data_prefix=dict(fg_path="matting/fg", alpha_path="matting/alpha", bg_path="matting/bg"),
    ),
    **where,
)
val_dataloader = dict(dataset=dict(data_root="{data}", data_prefix=prefix), **where)
test_dataloader = val_dataloader
train_cfg = dict(type="IterBasedTrainLoop", max_iters=2, val_interval=2)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1))
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=1, log_metric_by_epoch=False),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=2, save_best="SAD",
                    rule="less"),
    visualization=dict(type="SegVisualizationHook"),
)
{extra}
"""
    )
    return path


def save_checkpoint(path: Path) -> Path:
    """Weights of the toy model that predict the trimap."""
    model = ToyMatting()
    with torch.no_grad():
        model.layer.weight.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0]).view(1, 4, 1, 1))
        model.layer.bias.zero_()
    torch.save(dict(meta={}, state_dict=model.state_dict()), path)
    return path
