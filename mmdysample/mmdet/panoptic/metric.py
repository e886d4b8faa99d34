"""Panoptic quality as an mmdet metric."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.fileio import isdir, join_path
from mmengine.logging import MMLogger
from terminaltables import AsciiTable

from mmdysample.coco import VOID, check_annotations, read_annotations
from mmdysample.errors import InvalidValue
from mmdysample.mmdet.panoptic.quality import Segment, average, count_pairs, tally_image
from mmdysample.mmdet.panoptic.segments import check_recorded, read_segments

NAMES = ("PQ", "SQ", "RQ")


@METRICS.register_module()
class PanopticQualityMetric(BaseMetric):
    """PQ, SQ and RQ in percent, of all classes, things and stuff, without panopticapi.

    It takes arguments of mmdet's CocoPanopticMetric and gives results of the same names, so where
    panopticapi is installed that can be put in its place: ``--cfg-options
    val_evaluator.type=CocoPanopticMetric test_evaluator.type=CocoPanopticMetric``.

    Each image is compared as soon as it is predicted, and a few numbers of it are kept.

    Args:
        ann_file: JSON file of the true segments, in COCO's panoptic format.
        seg_prefix: directory of their PNG files.
        classwise: whether to give ``<class>_PQ``, ``_SQ`` and ``_RQ`` as well.
        backend_args: as for mmengine's ``fileio``.
        collect_device, prefix: as for mmengine's BaseMetric.

    Raises:
        ValueError: there is no directory of PNG files; the annotation file has no segments, does
            not fit the data set's classes, or does not fit the PNG files; these do not fit the
            images.
    """

    default_prefix = "coco_panoptic"

    def __init__(
        self,
        ann_file: str,
        seg_prefix: str,
        classwise: bool = False,
        backend_args: dict | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.ann_file = ann_file
        self.seg_prefix = seg_prefix
        self.classwise = classwise
        self.backend_args = backend_args
        if not isdir(seg_prefix, backend_args=backend_args):
            raise InvalidValue(
                f"seg_prefix={seg_prefix!r} of PanopticQualityMetric is not a directory"
            )
        self._content = read_annotations(ann_file, backend_args)
        check_annotations(self._content, ann_file, panoptic=True)
        self._annotations = {each["image_id"]: each for each in self._content["annotations"]}
        if not any(annotation["segments_info"] for annotation in self._annotations.values()):
            raise InvalidValue(
                f"{ann_file} lists no segments: predictions have nothing to be compared with"
            )
        self._categories: list[Mapping] | None = None

    @property
    def categories(self) -> list[Mapping]:
        """The annotation file's category of every label."""
        if self._categories is None:
            classes = self.dataset_meta["classes"]
            check_annotations(self._content, self.ann_file, classes, panoptic=True)
            self._categories = [c for c in self._content["categories"] if c["name"] in classes]
        return self._categories

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Compare the predictions ``pred_panoptic_seg`` of a batch with the truth."""
        for sample in data_samples:
            if "pred_panoptic_seg" not in sample:
                raise InvalidValue(
                    "PanopticQualityMetric needs a model that predicts pred_panoptic_seg; "
                    f"this one predicts {', '.join(k for k in sample if k.startswith('pred_'))}"
                )
            self.results.append(self._compare(sample))

    def _compare(self, sample: Mapping) -> dict[int, list[float]]:
        """Counts of an image by label, as :func:`tally_image` makes them."""
        image_id, image = sample["img_id"], sample.get("img_path", f"{sample['img_id']}")
        if image_id not in self._annotations:
            raise InvalidValue(
                f"image {image} (id {image_id}) has no annotation in {self.ann_file}"
            )
        annotation = self._annotations[image_id]
        path = join_path(self.seg_prefix, annotation["file_name"])
        ids = read_segments(path, sample["ori_shape"][:2], image, self.backend_args)
        predicted = self._read_prediction(sample)
        if predicted.shape != ids.shape:
            raise InvalidValue(
                f"the prediction for {image} is {predicted.shape[0]}x{predicted.shape[1]} (height "
                f"x width), the image is {ids.shape[0]}x{ids.shape[1]}"
            )
        truth = self._read_truth(annotation)
        pairs = count_pairs(ids, predicted)
        _check_pixels(pairs, truth, path)
        found = {segment for _, segment in pairs} - {VOID}
        prediction = {segment: (segment - 1) % INSTANCE_OFFSET for segment in found}
        wrong = [label for label in prediction.values() if label >= len(self.categories)]
        if wrong:
            raise InvalidValue(
                f"the model predicts class {max(wrong)} in {image}, but the data set has "
                f"{len(self.categories)} classes, 0 to {len(self.categories) - 1}"
            )
        return tally_image(pairs, truth, prediction)

    def _read_prediction(self, sample: Mapping) -> np.ndarray:
        """Ids of predicted segments (H, W), moved up by one so that 0 is void."""
        prediction = sample["pred_panoptic_seg"]
        ids = prediction["sem_seg"][0].cpu().numpy().astype(np.int64)
        labels = ids % INSTANCE_OFFSET
        void = labels == len(self.categories)
        if "ignore_index" in prediction:
            void |= labels == prediction["ignore_index"]
        return np.where(void, VOID, ids + 1)

    def _read_truth(self, annotation: Mapping) -> dict[int, Segment]:
        labels = {category["id"]: label for label, category in enumerate(self.categories)}
        return {
            record["id"]: Segment(
                labels[record["category_id"]], record["area"], bool(record.get("iscrowd", 0))
            )
            for record in annotation["segments_info"]
        }

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Averages over the classes that occur, in percent; a table of them goes to the log."""
        counts = np.zeros((len(self.categories), 4))
        for image in results:
            for label, row in image.items():
                counts[label] += row
        things = np.array([bool(category["isthing"]) for category in self.categories])
        groups = [("all", "", "", counts)]
        groups += [("things", "", "_th", counts[things]), ("stuff", "", "_st", counts[~things])]
        if self.classwise:
            names = [category["name"] for category in self.categories]
            groups += [(name, f"{name}_", "", counts[[i]]) for i, name in enumerate(names)]
        table, metrics = [["", *NAMES, "classes"]], {}
        for name, before, after, rows in groups:
            *quality, occurring = average(rows)
            percents = [100 * value for value in quality]
            table.append([name, *(f"{value:.3f}" for value in percents), str(occurring)])
            keys = [f"{before}{key}{after}" for key in NAMES]
            metrics |= dict(zip(keys, percents, strict=True))
        MMLogger.get_current_instance().info(
            f"Panoptic quality:{os.linesep}{AsciiTable(table).table}"
        )
        return metrics


def _check_pixels(
    pairs: Mapping[tuple[int, int], int], truth: Mapping[int, Segment], path: str
) -> None:
    """Raise ValueError if the PNG file at ``path`` does not fit the records of its segments."""
    pixels = Counter()
    for (segment, _), count in pairs.items():
        pixels[segment] += count
    check_recorded(pixels, truth, path)
    for segment, record in truth.items():
        # An IoU could come out above 1.
        if pixels[segment] > record.area:
            raise InvalidValue(
                f"segment {segment} has {pixels[segment]} pixels in {path}, but an area of "
                f"{record.area} in the annotation file"
            )
