"""Panoptic segmentation of single images without panopticapi."""

from __future__ import annotations

import itertools
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

    Arguments and results are the same: images, directories or arrays in; drawings and, for every
    image, ``panoptic_seg``, the segments' ids as colors (H, W, 3), uint8, RGB, or the path of a
    file with them.
    """

    def __init__(self, *args, **kwargs):
        self._written: dict[Path, Path] = {}
        super().__init__(*args, **kwargs)

    def pred2dict(self, data_sample: DetDataSample, pred_out_dir: str = "") -> dict:
        """Predictions of one image; written to ``pred_out_dir/preds`` if that is given.

        The file is ``NAME.json`` for the image ``NAME.jpg``; ``NAME.png.json`` if that is the
        predictions of another image of this inferencer.
        """
        has_segments = "pred_panoptic_seg" in data_sample
        instances = data_sample.clone()
        if has_segments:
            del instances.pred_panoptic_seg
        result = super().pred2dict(instances)
        path = self._path(data_sample, Path(pred_out_dir, "preds")) if pred_out_dir else None
        if has_segments:
            ids = data_sample.pred_panoptic_seg.sem_seg[0].cpu().numpy()
            void = ids % INSTANCE_OFFSET == len(self.model.dataset_meta["classes"])
            colors = id_to_rgb(np.where(void, VOID, ids))
            if path is None:
                result["panoptic_seg"] = colors
            else:
                result["panoptic_seg_path"] = f"{path.with_suffix('')}_panoptic_seg.png"
                mmcv.imwrite(np.ascontiguousarray(colors[..., ::-1]), result["panoptic_seg_path"])
        if path is not None:
            dump(result, str(path))
        return result

    def _path(self, data_sample: DetDataSample, directory: Path) -> Path:
        """Where the predictions of an image go."""
        if "img_path" not in data_sample:
            self.num_predicted_imgs += 1
            return directory / f"{self.num_predicted_imgs - 1}.json"
        image = Path(data_sample.img_path)
        numbered = (f"{image.name}.{number}" for number in itertools.count(2))
        names = itertools.chain([image.stem, image.name], numbered)
        paths = (directory / f"{name}.json" for name in names)
        return next(path for path in paths if self._written.setdefault(path, image) == image)
