"""Panoptic quality: how well predicted segments agree with true ones.

Kirillov et al.: "Panoptic Segmentation", CVPR 2019, section 4; void and crowd regions as in the
authors' evaluation code, panopticapi, which COCO's numbers come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mmdysample.coco import VOID


class Segment(NamedTuple):
    """A true segment. ``area`` is in pixels; a crowd is a region of instances not told apart."""

    label: int
    area: int
    is_crowd: bool = False


class Quality(NamedTuple):
    """Averages over ``classes`` classes, each between 0 and 1; NaN if there are none."""

    pq: float
    sq: float
    rq: float
    classes: int


def average(counts: np.ndarray) -> Quality:
    """Mean over the classes that occur in the truth or the predictions (equations 1 and 2).

    Args:
        counts: (number of classes, 4), float64, sums of what :func:`tally_image` gives.
    """
    matched, wrong, missed = counts[:, 1:].T
    pairs = matched + 0.5 * wrong + 0.5 * missed
    occurs = pairs > 0
    if not occurs.any():
        return Quality(np.nan, np.nan, np.nan, 0)
    iou, matched, pairs = counts[occurs, 0], matched[occurs], pairs[occurs]
    means = (float(x.mean()) for x in (iou / pairs, iou / np.maximum(matched, 1), matched / pairs))
    return Quality(*means, int(occurs.sum()))


def count_pairs(truth: np.ndarray, prediction: np.ndarray) -> dict[tuple[int, int], int]:
    """Pixels of every pair (true id, predicted id) of two (H, W) maps of ids below 2**31."""
    pairs = (truth.astype(np.int64) << 32 | prediction.astype(np.int64)).ravel()
    if not pairs.size:
        return {}
    # Neighbors are mostly of the same pair: there are far fewer runs to sort than pixels.
    starts = np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]]))
    lengths = np.diff(starts, append=pairs.size)
    found, which = np.unique(pairs[starts], return_inverse=True)
    pixels = np.bincount(which.ravel(), weights=lengths).astype(np.int64)
    return {
        (int(pair) >> 32, int(pair) & 0xFFFFFFFF): int(count)
        for pair, count in zip(found, pixels, strict=True)
    }


def tally_image(
    pairs: Mapping[tuple[int, int], int],
    truth: Mapping[int, Segment],
    prediction: Mapping[int, int],
) -> dict[int, list[float]]:
    """Sum of IoUs, number of matched, of wrong and of missed segments of each label in an image.

    Args:
        pairs: pixels of every pair (true id, predicted id), from :func:`count_pairs`.
        truth: id -> segment, without void.
        prediction: id -> label, without void; every segment has pixels.

    A predicted and a true segment of one class match if their IoU, without the predicted pixels on
    void, is above 0.5; there is at most one such pair for each. A crowd matches nothing and is not
    missed. A predicted segment without a match counts as wrong unless more than half of it lies on
    void and on the crowd of its class (of several, the last one in ``truth``).
    """
    areas = dict.fromkeys(prediction, 0)
    for (_, predicted), pixels in pairs.items():
        if predicted in areas:
            areas[predicted] += pixels

    counts: dict[int, list[float]] = {}
    matched_truth, matched_prediction = set(), set()
    for (true, predicted), shared in pairs.items():
        if true not in truth or predicted not in prediction:
            continue
        segment, label = truth[true], prediction[predicted]
        if segment.is_crowd or segment.label != label:
            continue
        on_void = pairs.get((VOID, predicted), 0)
        iou = shared / (areas[predicted] + segment.area - shared - on_void)
        if iou > 0.5:
            row = counts.setdefault(label, [0.0, 0, 0, 0])
            row[0] += iou
            row[1] += 1
            matched_truth.add(true)
            matched_prediction.add(predicted)

    crowds: dict[int, int] = {}
    for true, segment in truth.items():
        if segment.is_crowd:
            crowds[segment.label] = true
        elif true not in matched_truth:
            counts.setdefault(segment.label, [0.0, 0, 0, 0])[3] += 1

    for predicted, label in prediction.items():
        if predicted in matched_prediction:
            continue
        ignored = pairs.get((VOID, predicted), 0)
        if label in crowds:
            ignored += pairs.get((crowds[label], predicted), 0)
        if ignored <= 0.5 * areas[predicted]:
            counts.setdefault(label, [0.0, 0, 0, 0])[2] += 1
    return counts
