"""Drawings of panoptic predictions."""

from __future__ import annotations

import numpy as np
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer


@VISUALIZERS.register_module()
class PanopticLocalVisualizer(DetLocalVisualizer):
    """mmdet's DetLocalVisualizer, which also draws a prediction without any segment.

    A model predicts void everywhere where no thing is sure and every stuff region is small, as
    models do in the beginning of their training; the image is then drawn as it is.
    """

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: DetDataSample | None = None,
        *args,
        **kwargs,
    ) -> None:
        if data_sample is not None and "pred_panoptic_seg" in data_sample:
            num_classes = len(self.dataset_meta["classes"])
            if bool((data_sample.pred_panoptic_seg.sem_seg == num_classes).all()):
                data_sample = data_sample.clone()
                del data_sample.pred_panoptic_seg
        super().add_datasample(name, image, data_sample, *args, **kwargs)
