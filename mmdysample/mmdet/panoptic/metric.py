"""Panoptic quality as an mmdet metric."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from json import JSONDecodeError

import numpy as np
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.fileio import isdir, join_path, load
from mmengine.logging import MMLogger
from terminaltables import AsciiTable

from mmdysample.errors import InvalidValue
from mmdysample.mmdet.panoptic.quality import Quality, Segment, Tally, count_pairs, tally_image
from mmdysample.mmdet.panoptic.segments import (
    VOID,
    check_areas,
    check_recorded,
    check_segment,
    match_categories,
    read_segments,
)


@METRICS.register_module()
class PanopticQualityMetric(BaseMetric):
    """PQ, SQ and RQ in percent, of all classes, things and stuff, without panopticapi.

    It takes arguments of mmdet's CocoPanopticMetric and gives results of the same names, so where
    panopticapi is installed that can be put in its place: ``--cfg-options
    val_evaluator.type=CocoPanopticMetric test_evaluator.type=CocoPanopticMetric``.

    Each image is compared as soon as it is predicted, and a few numbers of it are kept.

    Args:
        ann_file: JSON file of the true segments, in COCO's panoptic format.
        seg_prefix: folder of their PNG files.
        classwise: whether to give ``<class>_PQ``, ``_SQ`` and ``_RQ`` as well.
        backend_args: as for mmengine's ``fileio``.
        collect_device, prefix: as for mmengine's BaseMetric.

    Raises:
        ValueError: there is no folder of PNG files; the annotation file has no segments, does not
            fit the data set's classes, or does not fit the PNG files; these do not fit the images.
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
        self._categories, self._annotations = _read_annotations(ann_file, backend_args)
        self._matched: list[Mapping] | None = None

    @property
    def categories(self) -> list[Mapping]:
        """The annotation file's category of every label."""
        if self._matched is None:
            classes = self.dataset_meta["classes"]
            self._matched = match_categories(self._categories, classes, self.ann_file)
        return self._matched

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Compare the predictions ``pred_panoptic_seg`` of a batch with the truth."""
        for sample in data_samples:
            if "pred_panoptic_seg" not in sample:
                raise InvalidValue(
                    "PanopticQualityMetric needs a model that predicts pred_panoptic_seg; "
                    f"this one predicts {', '.join(k for k in sample if k.startswith('pred_'))}"
                )
            counts = self._compare(sample)
            # The numbers of one image in two arrays, which is little to gather.
            labels = np.array(sorted(counts), np.int64)
            rows = np.array([counts[label] for label in labels], np.float64).reshape(-1, 4)
            self.results.append((labels, rows))

    def _compare(self, sample: Mapping) -> dict[int, list[float]]:
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
        truth = self._read_truth(annotation, image_id)
        pairs = count_pairs(ids, predicted)
        pixels = Counter()
        for (true, _), count in pairs.items():
            pixels[true] += count
        check_recorded(pixels, truth, path)
        check_areas(pixels, {true: segment.area for true, segment in truth.items()}, path)
        found = {label for _, label in pairs} - {VOID}
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

    def _read_truth(self, annotation: Mapping, image_id: int) -> dict[int, Segment]:
        labels = {category["id"]: label for label, category in enumerate(self.categories)}
        truth = {}
        for record in annotation["segments_info"]:
            check_segment(record, labels, self.ann_file, image_id, ("area",))
            truth[record["id"]] = Segment(
                labels[record["category_id"]], record["area"], bool(record.get("iscrowd", 0))
            )
        return truth

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Averages over the classes that occur, in percent; a table of them goes to the log."""
        logger = MMLogger.get_current_instance()
        tally = Tally(len(self.categories))
        for labels, rows in results:
            tally.counts[labels] += rows
        things = {i for i, category in enumerate(self.categories) if category["isthing"]}
        everything = range(len(self.categories))
        groups = {
            "": ("all", tally.average(everything)),
            "_th": ("things", tally.average(i for i in everything if i in things)),
            "_st": ("stuff", tally.average(i for i in everything if i not in things)),
        }
        rows, metrics = [], {}
        for suffix, (name, quality) in groups.items():
            rows.append(_row(name, quality, str(quality.classes)))
            values = zip(("PQ", "SQ", "RQ"), quality[:3], strict=True)
            metrics |= {key + suffix: 100 * value for key, value in values}
            if not quality.classes:
                logger.warning(
                    f"Panoptic quality of {name} is not defined (nan): no segment of these "
                    "classes is in the ground truth or in the predictions"
                )
        _log_table("Panoptic quality", ["", "PQ", "SQ", "RQ", "classes"], rows, logger)
        if self.classwise:
            names = [category["name"] for category in self.categories]
            each = dict(zip(names, tally.per_class(), strict=True))
            rows = [_row(name, quality) for name, quality in each.items()]
            _log_table("Panoptic quality by class", ["", "PQ", "SQ", "RQ"], rows, logger)
            for name, quality in each.items():
                values = zip(("PQ", "SQ", "RQ"), quality[:3], strict=True)
                metrics |= {f"{name}_{key}": 100 * value for key, value in values}
        return metrics


def _read_annotations(
    ann_file: str, backend_args: dict | None
) -> tuple[list[dict], dict[int, dict]]:
    """Categories, and the annotation of each image id."""
    try:
        content = load(ann_file, backend_args=backend_args)
    except JSONDecodeError as error:
        raise InvalidValue(f"{ann_file} is not valid JSON: {error}") from error
    for key in ("categories", "annotations"):
        if not isinstance(content, dict) or key not in content:
            raise InvalidValue(f"{ann_file} has no {key!r}: it is not in COCO's panoptic format")
    for annotation in content["annotations"]:
        for key in ("image_id", "file_name", "segments_info"):
            if key not in annotation:
                raise InvalidValue(
                    f"an annotation of {ann_file} has no {key!r}: it is not in COCO's panoptic "
                    "format"
                )
    if not any(annotation["segments_info"] for annotation in content["annotations"]):
        raise InvalidValue(
            f"{ann_file} lists no segments: there is no ground truth to compare predictions with"
        )
    by_image = {annotation["image_id"]: annotation for annotation in content["annotations"]}
    if len(by_image) < len(content["annotations"]):
        images = Counter(annotation["image_id"] for annotation in content["annotations"])
        twice = images.most_common(1)[0][0]
        raise InvalidValue(f"{ann_file} has several annotations of image {twice!r}")
    return content["categories"], by_image


def _row(name: str, quality: Quality, *more: str) -> list[str]:
    return [name, *(f"{100 * value:.3f}" for value in quality[:3]), *more]


def _log_table(title: str, head: list[str], rows: list[list[str]], logger: MMLogger) -> None:
    logger.info(f"{title}:{os.linesep}{AsciiTable([head, *rows]).table}")
