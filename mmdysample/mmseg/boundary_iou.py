"""Boundary IoU of semantic segmentation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.logging import MMLogger, print_log
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from prettytable import PrettyTable
from torch import Tensor

from mmdysample.errors import InvalidValue


@METRICS.register_module()
class BoundaryIoUMetric(IoUMetric):
    """mmseg's IoUMetric, and the Boundary IoU from the same pass over the predictions.

    Source: Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation",
    CVPR 2021. The band of a class is what d erosions with a 3x3 square take away from it: its
    pixels at most d pixels away (chessboard distance) from a pixel of something else or from the
    outside of the image. d is ``dilation_ratio`` times the image's diagonal, rounded, at least 1.
    Intersections and unions of the predicted and the true bands are summed per class over the data
    set; 'bIoU' is the mean over classes of their quotients, in percent. Pixels that the ground
    truth ignores belong to no class in both maps: what is predicted there does not matter.

    The DySample paper does not say how its bIoU is summed up over images; it may differ from this.

    In a config with IoUMetric: ``val_evaluator = dict(type='BoundaryIoUMetric')`` and
    ``test_evaluator = val_evaluator``, as in ``configs/_base_/*_ade20k-*.py``.

    Args:
        dilation_ratio: distance d as a part of the image's diagonal.
        *args, **kwargs: as for mmseg's IoUMetric.

    Raises:
        ValueError: no ground truth, or none but ignored pixels.
    """

    def __init__(self, *args, dilation_ratio: float = 0.02, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(dilation_ratio, (int, float)) or not 0 < dilation_ratio < 1:
            raise InvalidValue(f"dilation_ratio must lie between 0 and 1, got {dilation_ratio!r}")
        self.dilation_ratio = dilation_ratio

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep seven histograms over classes of each sample: IoUMetric's four, and ours."""
        for sample in data_samples:
            if not self.format_only and "gt_sem_seg" not in sample:
                raise InvalidValue(
                    f"{sample.get('img_path', 'a sample')} comes without its ground truth: "
                    "the test pipeline needs dict(type='LoadAnnotations')"
                )
            super().process(data_batch, [sample])
            if not self.format_only:
                self.results[-1] = (*self.results[-1], *self._boundary_areas(sample))

    def _boundary_areas(self, sample: dict) -> tuple[Tensor, Tensor, Tensor]:
        # floating point in binary segmentation
        pred = sample["pred_sem_seg"]["data"].squeeze(0).long()
        label = sample["gt_sem_seg"]["data"].squeeze(0).to(pred)
        num_classes = len(self.dataset_meta["classes"])
        return boundary_areas(pred, label, num_classes, self.ignore_index, self.dilation_ratio)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """IoUMetric's results (aAcc, mIoU, mAcc, ...) and 'bIoU', in percent."""
        if self.format_only:
            return super().compute_metrics(results)
        if not sum(label_areas.sum() for _, _, _, label_areas, *_ in results):
            raise InvalidValue(
                "the ground truth of the whole data set is empty: "
                f"all pixels of its {len(results)} label maps are ignored"
            )
        metrics = super().compute_metrics([areas[:4] for areas in results])
        intersection, pred, label = (sum(areas) for areas in list(zip(*results, strict=True))[4:])
        iou = (intersection.double() / (pred + label - intersection)).numpy()
        if self.nan_to_num is not None:
            iou = np.nan_to_num(iou, nan=self.nan_to_num)
        table = PrettyTable()
        table.add_column("Class", list(self.dataset_meta["classes"]))
        table.add_column("Boundary IoU", np.round(iou * 100, 2))
        print_log(f"per class boundary IoU:\n{table}", MMLogger.get_current_instance())
        return {**metrics, "bIoU": np.round(np.nanmean(iou) * 100, 2)}


def boundary_areas(
    pred: Tensor, label: Tensor, num_classes: int, ignore_index: int, dilation_ratio: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels of each class in both bands, in the predicted band and in the true one.

    Args:
        pred: (H, W) integer, predicted classes.
        label: (H, W) integer, true classes or ``ignore_index``.

    Returns:
        Three tensors of shape (num_classes,), int64, on the CPU.
    """
    known = label != ignore_index
    pred, label = torch.where(known, pred, -1), torch.where(known, label, -1)
    height, width = label.shape
    distance = max(1, round(dilation_ratio * (height**2 + width**2) ** 0.5))
    pred_band = boundary_band(pred, distance) & known
    label_band = boundary_band(label, distance) & known
    both = pred_band & label_band & (pred == label)
    maps = ((label, both), (pred, pred_band), (label, label_band))
    # counting all pixels, the others as one more class, is faster than picking some out
    return tuple(
        torch.where(band, classes, num_classes)
        .flatten()
        .bincount(minlength=num_classes + 1)[:num_classes]
        .cpu()
        for classes, band in maps
    )


def boundary_band(labels: Tensor, distance: int) -> Tensor:
    """Where a label map (H, W) has another label, or ends, at most ``distance`` pixels away.

    For all labels at once: a square of pixels holds one label if each 2x2 block in it does, and
    how many blocks in a square do not is known from a summed-area table. Chessboard distance.
    """
    height, width = labels.shape
    band = torch.ones_like(labels, dtype=torch.bool)
    side = 2 * distance  # of the square around a pixel, in blocks
    if height > side and width > side:
        corner = labels[:-1, :-1]
        mixed = (
            (corner != labels[1:, :-1]) | (corner != labels[:-1, 1:]) | (corner != labels[1:, 1:])
        )
        table = torch.zeros_like(labels, dtype=torch.int32)
        table[1:, 1:] = mixed.cumsum(0, dtype=torch.int32).cumsum(1, dtype=torch.int32)
        inside = table[side:, side:] - table[:-side, side:]
        inside = inside - table[side:, :-side] + table[:-side, :-side]
        band[distance : height - distance, distance : width - distance] = inside > 0
    return band
