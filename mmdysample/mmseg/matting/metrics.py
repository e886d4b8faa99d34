"""SAD, MSE, gradient and connectivity error of alpha mattes.

Source: Rhemann et al., "A Perceptually Motivated Online Benchmark for Image Matting", CVPR 2009, in
the form of the MATLAB files that come with Composition-1k (Xu et al., "Deep Image Matting", CVPR
2017), which the published numbers use. Alphas are whole numbers from 0 to 255 and only the unknown
pixels of the trimap count, those of value 128.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from mmseg.registry import METRICS
from prettytable import PrettyTable

from mmdysample.errors import InvalidType, InvalidValue
from mmdysample.images import write_image
from mmdysample.mmseg.matting.loading import UNKNOWN

STEPS = 10
"""Thresholds of the connectivity error: 1/10, 2/10, ..., 1."""
SIGMA = 1.4
"""Of the Gaussian whose derivative the gradient error takes, in pixels."""
_SMALLEST = 0.01
"""The kernel ends where the Gaussian falls below this."""


def sum_of_absolute_differences(pred: np.ndarray, true: np.ndarray, unknown: np.ndarray) -> float:
    """SAD: sum of \\|p - t\\| over unknown pixels, in thousands.

    Args:
        pred, true: alphas (H, W), uint8, 255 is opaque.
        unknown: (H, W), bool.
    """
    return float(np.abs(_difference(pred, true)[unknown]).sum() / 255 / 1000)


def mean_squared_error(pred: np.ndarray, true: np.ndarray, unknown: np.ndarray) -> float:
    """MSE: mean of (p - t)^2 over unknown pixels, of alphas from 0 to 1.

    Arguments as for `sum_of_absolute_differences`; at least one pixel is unknown.
    """
    return float((_difference(pred, true)[unknown] ** 2).mean() / 255**2)


def gradient_error(pred: np.ndarray, true: np.ndarray, unknown: np.ndarray) -> float:
    """Grad: sum of (\\|grad p\\| - \\|grad t\\|)^2 over unknown pixels, in thousands.

    Each alpha is scaled first so that its smallest value becomes 0 and its largest 1, over the
    whole image. The gradient is correlation with the derivatives of a Gaussian, sigma 1.4, 9x9,
    whose kernel is divided by its L2 norm; edges are repeated.

    Arguments as for `sum_of_absolute_differences`.
    """
    difference = _gradient(pred) - _gradient(true)
    return float((difference[unknown] ** 2).sum() / 1000)


def connectivity_error(pred: np.ndarray, true: np.ndarray, unknown: np.ndarray) -> float:
    """Conn: sum of \\|phi(p) - phi(t)\\| over unknown pixels, in thousands.

    phi(alpha) = 1 - d where d = alpha - l is at least 0.15, else 1. l of a pixel is the last of the
    thresholds 0, 0.1, ..., 1 before that at which it leaves the largest 4-connected component of
    the pixels where both alphas reach the threshold; 1 if it never does. Thresholds that no pixel
    reaches are left out. Of components of one size the first is taken that MATLAB finds, which goes
    through an image column by column.

    Arguments as for `sum_of_absolute_differences`.
    """
    level = _levels(np.minimum(pred, true))
    difference = _connectivity(pred, level) - _connectivity(true, level)
    return float(np.abs(difference[unknown]).sum() / 1000)


def _levels(lowest: np.ndarray) -> np.ndarray:
    """l in tenths (H, W) of the pixels of two alphas whose minimum is ``lowest``."""
    # Rows and columns exchanged: OpenCV numbers components row by row.
    tenths = STEPS * np.ascontiguousarray(lowest.T).astype(np.int16)
    level = np.full(tenths.shape, STEPS, np.int16)
    inside = np.ones(tenths.shape, bool)  # those that have not left it yet
    for step in range(1, STEPS + 1):
        # Whole numbers: in floating point 153 / 255 falls short of 6 * 0.1.
        reached = tenths >= 255 * step
        if not reached.any():
            break  # nor any higher threshold
        component = _largest_component(reached)
        level[inside & ~component] = step - 1
        inside &= component
    return level.T


def _largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 4-connected component of a mask (H, W) that has pixels."""
    _, labels, found, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    areas = found[1:, cv2.CC_STAT_AREA]
    return labels == 1 + int(areas.argmax())


def _connectivity(alpha: np.ndarray, level: np.ndarray) -> np.ndarray:
    # Whole numbers of 1 / 2550, of which 0.15 is 382.5.
    distance = STEPS * alpha.astype(np.int16) - 255 * level
    return 1 - np.where(distance > 382, distance, 0) / (255 * STEPS)


def gaussian_kernels() -> tuple[np.ndarray, np.ndarray]:
    """A Gaussian and its derivative (9,), float64, each of L2 norm 1.

    The 9x9 kernels of the gradient are their outer products, which have L2 norm 1 likewise.
    """
    half = math.ceil(SIGMA * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * SIGMA * _SMALLEST)))
    offset = np.arange(-half, half + 1)
    gauss = np.exp(-(offset**2) / (2 * SIGMA**2))
    derivative = offset * gauss
    return gauss / np.linalg.norm(gauss), derivative / np.linalg.norm(derivative)


def _gradient(alpha: np.ndarray) -> np.ndarray:
    """Length of the gradient of an alpha that is scaled to be from 0 to 1, (H, W), float64."""
    low, high = int(alpha.min()), int(alpha.max())
    if low == high:
        return np.zeros(alpha.shape)
    scaled = (alpha.astype(np.float64) - low) / (high - low)
    gauss, derivative = gaussian_kernels()
    along_rows, along_columns = (
        cv2.sepFilter2D(scaled, -1, *kernels, borderType=cv2.BORDER_REPLICATE)
        for kernels in ((derivative, gauss), (gauss, derivative))
    )
    return np.hypot(along_rows, along_columns)


def _difference(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    return pred.astype(np.int32) - true


@METRICS.register_module()
class MattingMetric(BaseMetric):
    """SAD, MSE, Grad and Conn, each the mean over the images.

    Every image is reduced to four numbers where it is predicted.

    Args:
        output_dir: where the predicted alphas are written, as ``NAME.png``, 8 bits; NAME is that of
            the image file, so that images in several directories need names of their own.
        format_only: only write them, and measure nothing.
        keep_results: for the tools, which set it; what is written is kept.
        **kwargs: as for mmengine's BaseMetric.

    Raises:
        InvalidValue: ``format_only`` without ``output_dir``; a sample without a predicted alpha, or
            without its trimap or true alpha; a trimap without an unknown pixel; two images of one
            name to write.
    """

    FUNCTIONS: ClassVar = dict(
        SAD=sum_of_absolute_differences,
        MSE=mean_squared_error,
        Grad=gradient_error,
        Conn=connectivity_error,
    )

    def __init__(
        self,
        output_dir: str | None = None,
        format_only: bool = False,
        keep_results: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if format_only and not output_dir:
            raise InvalidValue("format_only=True of MattingMetric needs output_dir")
        self.output_dir = output_dir
        self.format_only = format_only
        self.keep_results = keep_results
        self._written: dict[str, str] = {}

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the path and the four numbers of each sample."""
        for sample in data_samples:
            pred = _alpha(sample, "pred_alpha", "the model predicts none")
            if self.output_dir:
                self._write(pred, sample)
            measured = None if self.format_only else self._measure(pred, sample)
            self.results.append((sample.get("img_path"), measured))

    def _measure(self, pred: np.ndarray, sample: dict) -> dict[str, float]:
        true = _alpha(sample, "gt_alpha", "the test pipeline needs LoadAlphaAnnotations")
        unknown = _alpha(sample, "trimap", "the test pipeline needs LoadTrimap") == UNKNOWN
        if not unknown.any():
            name = sample.get("img_path", "a sample")
            raise InvalidValue(f"the trimap of {name} has no unknown pixel (128) to measure")
        return {name: function(pred, true, unknown) for name, function in self.FUNCTIONS.items()}

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The means of SAD, MSE, Grad and Conn over the images; nothing with ``format_only``."""
        if self.output_dir:
            written: dict[str, str] = {}  # by all processes
            for path, _ in results:
                self._claim(path, written)
        if self.format_only:
            return {}
        means = {
            name: float(np.mean([errors[name] for _, errors in results])) for name in self.FUNCTIONS
        }
        table = PrettyTable(field_names=list(means))
        table.add_row([f"{mean:.4f}" for mean in means.values()])
        print_log(f"over {len(results)} images:\n{table}", MMLogger.get_current_instance())
        return means

    def evaluate(self, size: int) -> dict[str, float]:
        """As of BaseMetric; after an error, too, the next evaluation begins without samples."""
        try:
            return super().evaluate(size)
        finally:
            self.results.clear()
            self._written.clear()

    def _write(self, alpha: np.ndarray, sample: dict) -> None:
        write_image(self._claim(sample["img_path"], self._written), alpha)

    def _claim(self, image: str, written: dict[str, str]) -> Path:
        """The file of an image's alpha; ``written`` has the image of each name, and gets this.

        Raises:
            InvalidValue: another image has this name.
        """
        name = f"{Path(image).stem}.png"
        other = written.setdefault(name, image)
        if other != image:
            path = Path(self.output_dir, name)
            raise InvalidValue(f"{path} would hold the alphas of both {other} and {image}")
        return Path(self.output_dir, name)


def _alpha(sample: dict, field: str, reason: str) -> np.ndarray:
    """A field (1, H, W), uint8, of a sample as an array (H, W)."""
    if field not in sample:
        name = sample.get("img_path", "a sample")
        raise InvalidValue(f"{name} comes without {field}: {reason}")
    data = sample[field]["data"]
    if data.dtype != torch.uint8:
        raise InvalidType(f"{field} must be uint8, 0 to 255, got {data.dtype}")
    return data[0].cpu().numpy()
