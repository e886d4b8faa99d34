"""Errors of predicted depth as an mmseg metric."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from mmseg.registry import METRICS
from prettytable import PrettyTable
from torch import Tensor

from mmdysample.errors import InvalidType, InvalidValue
from mmdysample.images import write_image
from mmdysample.mmseg.depth import nyu
from mmdysample.ops.checks import finite_number

NAMES = ("d1", "d2", "d3", "abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog")


@METRICS.register_module()
class DepthErrorMetric(BaseMetric):
    """mmseg's DepthMetric, reduced to nine numbers of each image as soon as it is predicted.

    Names and definitions are those of DepthMetric, whose arguments it takes, and so is the mean
    over images of each image's value. It differs in this:

    - It keeps no depth maps: of 654 images of 480x640 these are 1.2 GB on the model's device.
    - Predictions are clamped to ``min_depth_eval``..``max_depth_eval`` first, NaN to the smaller,
      so that a depth of 0 or below is a large error and no NaN.
    - ``crop_type='nyu_crop'`` is relative to the image's size: rows 45 to 471 of 480 and columns 41
      to 601 of 640.
    - Images without any valid depth are counted, reported and left out of the mean.
    - Depth maps are written in millimeters, rounded.

    True depth is valid above ``min_depth_eval`` and below ``max_depth_eval``. With
    g = log(pred) - log(gt): d1, d2, d3 are the parts of the pixels where the greater of pred / gt
    and gt / pred is below 1.25, 1.25^2, 1.25^3; abs_rel is Mean(|pred - gt| / gt), sq_rel
    Mean((pred - gt)^2 / gt), rmse and rmse_log are the roots of Mean((pred - gt)^2) and Mean(g^2),
    log10 is Mean(|g|) / log(10), silog the root of Mean(g^2) - Mean(g)^2 / 2.

    Args:
        depth_metrics: those of the nine that are wanted; all by default.
        min_depth_eval, max_depth_eval: in meters.
        crop_type: None or 'nyu_crop'.
        depth_scale_factor: what a meter is in the files that are written.
        output_dir: a directory for predicted depth maps, PNG files of 16 bits.
        format_only: whether only these are written, of images without true depth.
        collect_device, prefix: as for mmengine's BaseMetric.

    Raises:
        ValueError: an argument is not accepted; a sample has no depth, or no true depth of its
            size; no image has valid depth; two images would be written to one file.
    """

    def __init__(
        self,
        depth_metrics: Sequence[str] | None = None,
        min_depth_eval: float = 1e-3,
        max_depth_eval: float = 10.0,
        crop_type: str | None = None,
        depth_scale_factor: float = 1000.0,
        output_dir: str | None = None,
        format_only: bool = False,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.names = _check_names(depth_metrics)
        for name, value in (
            ("min_depth_eval", min_depth_eval),
            ("max_depth_eval", max_depth_eval),
            ("depth_scale_factor", depth_scale_factor),
        ):
            finite_number(f"{name} of DepthErrorMetric", value, "a finite number above 0", above=0)
        if min_depth_eval >= max_depth_eval:
            raise InvalidValue(
                f"min_depth_eval={min_depth_eval} of DepthErrorMetric must be below "
                f"max_depth_eval={max_depth_eval}"
            )
        if crop_type not in (None, "nyu_crop"):
            raise InvalidValue(
                f"crop_type of DepthErrorMetric must be None or 'nyu_crop', got {crop_type!r}"
            )
        if format_only and not output_dir:
            raise InvalidValue(
                "format_only=True of DepthErrorMetric needs output_dir, where to write depth maps"
            )
        if output_dir and max_depth_eval * depth_scale_factor > np.iinfo(np.uint16).max:
            raise InvalidValue(
                f"max_depth_eval={max_depth_eval} times depth_scale_factor={depth_scale_factor} "
                "of DepthErrorMetric does not fit into 16 bits: set a smaller depth_scale_factor"
            )
        self.min_depth_eval = min_depth_eval
        self.max_depth_eval = max_depth_eval
        self.crop_type = crop_type
        self.depth_scale_factor = depth_scale_factor
        self.output_dir = output_dir
        self.format_only = format_only
        self._written: dict[str, str] = {}
        if output_dir:
            os.makedirs(output_dir, exist_ok=True)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep of each sample its path, the nine numbers, and whether any true depth is known.

        Without valid depth None takes the place of the numbers.
        """
        for sample in data_samples:
            path = sample.get("img_path", "a sample")
            pred = self._read_prediction(sample, path)
            errors, is_known = None, False
            if not self.format_only:
                errors, is_known = self._compare(pred, _read_truth(sample, pred, path))
            if self.output_dir:
                self._write(pred, path)
            self.results.append((path, errors, is_known))

    def _read_prediction(self, sample: Mapping, path: str) -> Tensor:
        """Predicted depth (H, W), clamped to what is evaluated."""
        if "pred_depth_map" not in sample:
            raise InvalidValue(
                "DepthErrorMetric needs a model that predicts pred_depth_map, such as "
                f"DepthEstimator; of {path} this one predicts "
                f"{', '.join(key for key in sample if key.startswith('pred_')) or 'nothing'}"
            )
        low, high = self.min_depth_eval, self.max_depth_eval
        pred = sample["pred_depth_map"]["data"].squeeze(0).float()
        return pred.nan_to_num(nan=low, posinf=high, neginf=low).clamp(low, high)

    def _compare(self, pred: Tensor, truth: Tensor) -> tuple[list[float] | None, bool]:
        """The nine numbers, if a pixel is valid, and whether the depth of any is known."""
        if self.crop_type == "nyu_crop":
            rows, columns = nyu.part_of(truth.shape, nyu.EVALUATED)
            pred, truth = pred[rows, columns], truth[rows, columns]
        valid = (truth > self.min_depth_eval) & (truth < self.max_depth_eval)
        if not valid.any():
            return None, bool(((truth > 0) & truth.isfinite()).any())
        return depth_errors(pred[valid], truth[valid]).tolist(), True

    def _write(self, pred: Tensor, path: str) -> None:
        _check_names_differ([path], self._written)
        depth = (pred.double() * self.depth_scale_factor).round().cpu().numpy().astype(np.uint16)
        file = os.path.join(self.output_dir, f"{_stem(path)}.png")
        write_image(file, depth)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The mean of each number over the images with valid depth; a table goes to the log."""
        logger = MMLogger.get_current_instance()
        if self.output_dir:
            _check_names_differ([path for path, *_ in results], {})  # those of all processes
            logger.info(f"{len(results)} depth maps are written to {self.output_dir}")
        if self.format_only:
            return {}
        errors = [each for _, each, _ in results if each is not None]
        without = [path for path, each, _ in results if each is None]
        where = (
            f"between {self.min_depth_eval} m and {self.max_depth_eval} m"
            f"{' in the crop of NYU' if self.crop_type else ''}"
        )
        if not any(is_known for *_, is_known in results):
            raise InvalidValue(
                f"none of the {len(results)} images has a pixel whose true depth is known"
                f"{' in the crop of NYU' if self.crop_type else ''}: their depth maps are 0 there, "
                f"the first is that of {min(without)}"
            )
        if not errors:
            raise InvalidValue(
                f"none of the {len(results)} images has a pixel whose true depth lies {where}: "
                "is depth_rescale_factor of LoadDepthAnnotation right? 1e-3 is for millimeters"
            )
        if without:
            print_log(
                f"{len(without)} of {len(results)} images have no true depth {where} and are left "
                f"out, the first is {min(without)}",
                logger,
                level=30,  # a warning
            )
        means = dict(zip(NAMES, np.mean(errors, axis=0).tolist(), strict=True))
        metrics = {name: means[name] for name in self.names}
        table = PrettyTable(list(metrics))
        table.add_row([f"{value:.5f}" for value in metrics.values()])
        logger.info(f"depth of {len(errors)} images:\n{table}")
        return metrics


def depth_errors(pred: Tensor, truth: Tensor) -> Tensor:
    """The nine numbers, in the order of `NAMES`, of pixels (N,) with depths above 0; float64."""
    pred, truth = pred.double(), truth.double()
    difference = pred - truth
    logarithm = pred.log() - truth.log()
    ratio = torch.maximum(pred / truth, truth / pred)
    square = logarithm.square().mean()
    return torch.stack(
        [
            *((ratio < 1.25**power).double().mean() for power in (1, 2, 3)),
            (difference.abs() / truth).mean(),
            (difference.square() / truth).mean(),
            difference.square().mean().sqrt(),
            square.sqrt(),
            logarithm.abs().mean() / math.log(10),
            (square - logarithm.mean().square() / 2).sqrt(),
        ]
    )


def _check_names(names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return NAMES
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise InvalidType(
            f"depth_metrics of DepthErrorMetric must be a list of names, got {names!r}"
        )
    wrong = [name for name in names if name not in NAMES]
    if wrong or not names:
        raise InvalidValue(
            f"depth_metrics of DepthErrorMetric must be some of {', '.join(NAMES)}, got "
            f"{wrong[0] if wrong else names!r}"
        )
    return tuple(names)


def _read_truth(sample: Mapping, pred: Tensor, path: str) -> Tensor:
    """True depth (H, W) of the size of the prediction, on its device."""
    if "gt_depth_map" not in sample:
        raise InvalidValue(
            f"{path} comes without its true depth: the test pipeline needs "
            "dict(type='LoadDepthAnnotation', depth_rescale_factor=...)"
        )
    truth = sample["gt_depth_map"]["data"].squeeze(0).to(pred)
    if truth.shape != pred.shape:
        raise InvalidValue(
            f"the predicted depth of {path} is {pred.shape[0]}x{pred.shape[1]} (height x width), "
            f"the true depth {truth.shape[0]}x{truth.shape[1]}: in the test pipeline "
            "LoadDepthAnnotation must come after what resizes the image"
        )
    return truth


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _check_names_differ(paths: Sequence[str], seen: dict[str, str]) -> None:
    """Raise ValueError if two images have one name in different directories.

    ``seen`` holds the path of each name, and gets those of ``paths``.
    """
    for path in paths:
        other = seen.setdefault(_stem(path), path)
        if other != path:
            raise InvalidValue(
                f"the depth maps of {other} and {path} would both be written to {_stem(path)}.png: "
                "give the images names of their own"
            )
