"""A model of a few weights that the tools train in a tenth of a second, registered in mmengine."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmdysample.engine.runner import build_runner


@MODELS.register_module()
class TinyModel(BaseModel):
    def __init__(self, outputs: int = 1):
        super().__init__()
        self.layer = nn.Linear(2, outputs)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, inputs, mode="tensor"):
        result = self.norm(self.layer(torch.stack(tuple(inputs))))
        return dict(loss=result.square().mean()) if mode == "loss" else [{} for _ in inputs]


@DATASETS.register_module()
class TinyData(Dataset):
    metainfo: ClassVar = dict(classes=("a", "b"))

    def __init__(self, pipeline=()):
        pass

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(inputs=torch.tensor([float(index), 1.0]))


@METRICS.register_module()
class TinyMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return dict(score=float(len(results)))


def ready_runner(config: Path, work_dir: Path) -> Runner:
    """A run that is about to train."""
    cfg = Config.fromfile(config)
    # mmengine keeps what is logged under a name for the whole process.
    cfg.work_dir = cfg.experiment_name = str(work_dir)
    runner = build_runner(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    return runner


def write_tiny_config(path: Path, **settings) -> Path:
    """A config of two epochs of two iterations; the best and the last checkpoint are kept."""
    loader = dict(
        batch_size=2,
        num_workers=0,
        dataset=dict(type="mmengine.TinyData"),
        sampler=dict(type="DefaultSampler", shuffle=False),
    )
    pipeline = [dict(type="LoadImageFromFile"), dict(type="PackSegInputs")]
    hook = dict(interval=1, max_keep_ckpts=1, save_best="score", rule="greater")
    cfg = dict(
        default_scope="mmseg",
        custom_imports=dict(imports=[__name__]),
        model=dict(type="mmengine.TinyModel"),
        train_dataloader=loader,
        val_dataloader=loader,
        # As the inferencer needs it.
        test_dataloader={**loader, "dataset": {**loader["dataset"], "pipeline": pipeline}},
        visualizer=dict(type="SegLocalVisualizer"),
        val_evaluator=dict(type="mmengine.TinyMetric"),
        test_evaluator=dict(type="mmengine.TinyMetric"),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        val_cfg=dict(),
        test_cfg=dict(),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.01)),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=4),
            dict(type="MultiStepLR", milestones=[1, 3], by_epoch=False),
        ],
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", **hook)),
        randomness=dict(seed=1),
    )
    lines = [f"{key} = {value!r}" for key, value in {**cfg, **settings}.items()]
    path.write_text("\n".join(lines) + "\n")
    return path
