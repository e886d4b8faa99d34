"""Loading panoptic annotations without panopticapi."""

from __future__ import annotations

import numpy as np
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import TRANSFORMS
from mmdet.structures.mask import BitmapMasks

from mmdysample.mmdet.panoptic.segments import check_recorded, read_segments

IGNORED = 255


@TRANSFORMS.register_module()
class LoadPanopticSegments(LoadAnnotations):
    """mmdet's LoadPanopticAnnotations without panopticapi, from which it takes one function.

    It has the same arguments and results, so where panopticapi is installed mmdet's can be put in
    its place: ``--cfg-options train_dataloader.dataset.pipeline.1.type=LoadPanopticAnnotations``,
    and likewise ``pipeline.2`` of ``val_dataloader`` and ``test_dataloader``.

    Args:
        with_bbox, with_label, with_mask, with_seg: what to load.
        box_type, imdecode_backend, backend_args: as for mmdet's LoadAnnotations.

    Adds ``gt_bboxes``, ``gt_bboxes_labels``, ``gt_ignore_flags``; ``gt_masks``, a mask for every
    thing that is not a crowd; ``gt_seg_map`` (H, W), uint8, the label of every pixel, 255 for void.

    Raises:
        ValueError: the PNG file is missing or damaged, is not of its image's size, or has a
            segment that the annotation file does not list, or with an empty box.
    """

    def __init__(
        self,
        with_bbox: bool = True,
        with_label: bool = True,
        with_mask: bool = True,
        with_seg: bool = True,
        box_type: str = "hbox",
        imdecode_backend: str = "cv2",
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(
            with_bbox=with_bbox,
            with_label=with_label,
            with_mask=with_mask,
            with_seg=with_seg,
            box_type=box_type,
            imdecode_backend=imdecode_backend,
            backend_args=backend_args,
        )

    def transform(self, results: dict) -> dict:
        """Load what there is; an image without annotations, as in inference, goes through."""
        if self.with_bbox:
            self._load_bboxes(results)
        if self.with_label:
            self._load_labels(results)
        if (self.with_mask or self.with_seg) and results.get("seg_map_path") is not None:
            self._load_segments(results)
        return results

    def _load_segments(self, results: dict) -> None:
        path, segments = results["seg_map_path"], results["segments_info"]
        height, width = results["ori_shape"]
        ids = read_segments(path, (height, width), results["img_path"], self.backend_args)
        labels = np.full(ids.shape, IGNORED, np.uint8)
        masks, covered = [], np.count_nonzero(ids == 0)
        for segment in segments:
            mask = ids == segment["id"]
            labels[mask] = segment["category"]
            covered += np.count_nonzero(mask)
            if segment["is_thing"]:
                masks.append(mask.astype(np.uint8))
        if covered != ids.size:
            check_recorded(np.unique(ids).tolist(), (segment["id"] for segment in segments), path)
        if self.with_mask:
            results["gt_masks"] = BitmapMasks(masks, height, width)
        if self.with_seg:
            results["gt_seg_map"] = labels
