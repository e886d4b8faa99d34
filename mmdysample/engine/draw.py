"""Drawings of a segmentor's predictions in a directory of their own."""

from __future__ import annotations

from pathlib import Path

import mmcv
from mmengine.fileio import get
from mmseg.engine import SegVisualizationHook
from mmseg.registry import HOOKS


@HOOKS.register_module()
class SegDrawingHook(SegVisualizationHook):
    """mmseg's hook, with mmdet's ``test_out_dir``: below the run's directory unless it is absolute.

    mmseg's own draws wherever the visualizer keeps the run's records.
    """

    def __init__(self, test_out_dir: str, **settings) -> None:
        super().__init__(**settings)
        self.test_out_dir = test_out_dir

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        directory = Path(runner.work_dir, runner.timestamp, self.test_out_dir)
        for sample in outputs or ():
            image = get(sample.img_path, backend_args=self.backend_args)
            name = Path(sample.img_path).name
            self._visualizer.add_datasample(
                name,
                mmcv.imfrombytes(image, channel_order="rgb"),
                data_sample=sample,
                show=self.show,
                wait_time=self.wait_time,
                out_file=str(directory / name),
            )
