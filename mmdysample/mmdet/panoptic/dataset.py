"""COCO's panoptic data set, checked while it is read."""

from __future__ import annotations

from mmdet.datasets import CocoPanopticDataset
from mmdet.registry import DATASETS

from mmdysample.mmdet.panoptic.segments import check_segment, match_categories


@DATASETS.register_module()
class CheckedCocoPanopticDataset(CocoPanopticDataset):
    """mmdet's CocoPanopticDataset, which says what is wrong with an annotation file.

    Arguments and samples are the same; a sample also has ``empty_segments``, the ids of the
    recorded segments that mmdet leaves out for their empty boxes.

    Raises:
        ValueError: when the file is read: a class that it does not have, classes in another order,
            a segment of a category outside of the classes, or one that lacks a key.
    """

    _categories_checked = False

    def parse_data_info(self, raw_data_info: dict) -> dict:
        if not self._categories_checked:
            categories = list(self.coco.cats.values())
            match_categories(categories, self.metainfo["classes"], self.ann_file)
            self._categories_checked = True
        image_id = raw_data_info["raw_img_info"]["img_id"]
        # The same id may stand for segments of several images.
        segments = [s for s in raw_data_info["raw_ann_info"] if s["image_id"] == image_id]
        for segment in segments:
            check_segment(segment, self.cat2label, self.ann_file, image_id, ("bbox", "area"))
        info = super().parse_data_info(raw_data_info)
        kept = {segment["id"] for segment in info["segments_info"]}
        info["empty_segments"] = [s["id"] for s in segments if s["id"] not in kept]
        return info
