"""Drawings of a segmentor's predictions in a directory of their own."""

from __future__ import annotations

import itertools
from pathlib import Path

import mmcv
from mmengine.fileio import get
from mmengine.logging import print_log
from mmseg.engine import SegVisualizationHook
from mmseg.registry import HOOKS

from mmdysample.atomic import replacing


@HOOKS.register_module()
class SegDrawingHook(SegVisualizationHook):
    """mmseg's hook, with mmdet's ``test_out_dir``: below the run's directory unless it is absolute.

    mmseg's own draws wherever the visualizer keeps the run's records. Here a drawing has the name
    of its image file, with a number behind it if an image of another directory has taken that, and
    is there whole or not at all.
    """

    def __init__(self, test_out_dir: str, **settings) -> None:
        super().__init__(**settings)
        self.test_out_dir = test_out_dir
        self._drawn: dict[str, str] = {}  # the image of each name

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        directory = Path(runner.work_dir, runner.timestamp, self.test_out_dir)
        directory.mkdir(parents=True, exist_ok=True)
        for sample in outputs or ():
            image = get(sample.img_path, backend_args=self.backend_args)
            path = directory / self._name(sample.img_path)
            with replacing(path, suffix=path.suffix) as draft:
                self._visualizer.add_datasample(
                    path.name,
                    mmcv.imfrombytes(image, channel_order="rgb"),
                    data_sample=sample,
                    show=self.show,
                    wait_time=self.wait_time,
                    out_file=str(draft),
                )

    def _name(self, image: str) -> str:
        """The name of an image's drawing, which no other image has."""
        plain = Path(image)
        numbered = (f"{plain.stem}_{number}{plain.suffix}" for number in itertools.count(2))
        for name in itertools.chain([plain.name], numbered):
            if self._drawn.setdefault(name, image) == image:
                break
        if name != plain.name:
            print_log(
                f"the drawing of {image} is {name}: {plain.name} is that of "
                f"{self._drawn[plain.name]}",
                "current",
            )
        return name
