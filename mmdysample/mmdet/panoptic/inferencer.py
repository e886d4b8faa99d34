"""Panoptic segmentation of single images without panopticapi."""

from __future__ import annotations

from pathlib import Path

import mmcv
import numpy as np
from mmdet.apis import DetInferencer
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.structures import DetDataSample
from mmengine.fileio import dump

from mmdysample.mmdet.panoptic.segments import VOID, id_to_rgb


class PanopticInferencer(DetInferencer):
    """mmdet's DetInferencer, whose panoptic results need panopticapi.

    Arguments and results are the same: images, folders or arrays in; pictures and, for every image,
    ``panoptic_seg``, the segments' ids as colours (H, W, 3), uint8, RGB, or the path of a file
    with them.
    """

    def pred2dict(self, data_sample: DetDataSample, pred_out_dir: str = "") -> dict:
        """Predictions of one image; written to ``pred_out_dir/preds`` if that is given."""
        if "pred_panoptic_seg" not in data_sample:
            return super().pred2dict(data_sample, pred_out_dir)
        instances = data_sample.clone()
        del instances.pred_panoptic_seg
        result = super().pred2dict(instances)

        ids = data_sample.pred_panoptic_seg.sem_seg[0].cpu().numpy()
        void = ids % INSTANCE_OFFSET == len(self.model.dataset_meta["classes"])
        colors = id_to_rgb(np.where(void, VOID, ids))
        if not pred_out_dir:
            return result | dict(panoptic_seg=colors)
        if "img_path" in data_sample:
            name = Path(data_sample.img_path).stem
        else:
            name = f"{self.num_predicted_imgs}"
            self.num_predicted_imgs += 1
        folder = Path(pred_out_dir, "preds")
        result["panoptic_seg_path"] = str(folder / f"{name}_panoptic_seg.png")
        mmcv.imwrite(np.ascontiguousarray(colors[..., ::-1]), result["panoptic_seg_path"])
        dump(result, str(folder / f"{name}.json"))
        return result
