"""Panoptic quality with sets of pixels and loops, from its definition.

Kirillov et al.: "Panoptic Segmentation", CVPR 2019, section 4. Maps are lists of rows of ids, 0 is
void; a record has ``id``, ``category_id`` and, in the truth, ``iscrowd``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def panoptic_quality(
    images: Iterable[tuple[Sequence, Sequence[dict], Sequence, Sequence[dict]]],
    categories: Iterable[int],
) -> tuple[float, float, float]:
    """PQ, SQ and RQ, the means over those of ``categories`` that occur.

    ``images``: true map, true records, predicted map, predicted records of each.
    """
    categories = list(categories)
    ious = {category: [] for category in categories}
    wrong = dict.fromkeys(categories, 0)
    missed = dict.fromkeys(categories, 0)
    for true_map, true_records, predicted_map, predicted_records in images:
        void = pixels_of(true_map, 0)
        matched = []
        for p in predicted_records:
            predicted = pixels_of(predicted_map, p["id"])
            for t in true_records:
                if t["category_id"] != p["category_id"] or t["iscrowd"]:
                    continue
                true = pixels_of(true_map, t["id"])
                iou = len(true & predicted) / len((true | predicted) - void)
                if iou > 0.5:
                    matched += [("true", t["id"]), ("predicted", p["id"])]
                    if p["category_id"] in ious:
                        ious[p["category_id"]].append(iou)
        for t in true_records:
            if t["category_id"] in missed and not t["iscrowd"] and ("true", t["id"]) not in matched:
                missed[t["category_id"]] += 1
        for p in predicted_records:
            if p["category_id"] not in wrong or ("predicted", p["id"]) in matched:
                continue
            ignored = set(void)
            for t in true_records:
                if t["iscrowd"] and t["category_id"] == p["category_id"]:
                    ignored |= pixels_of(true_map, t["id"])
            predicted = pixels_of(predicted_map, p["id"])
            if len(predicted & ignored) <= len(predicted) / 2:
                wrong[p["category_id"]] += 1
    rows = []
    for c in categories:
        if ious[c] or wrong[c] or missed[c]:
            count = len(ious[c]) + wrong[c] / 2 + missed[c] / 2
            segmentation = sum(ious[c]) / len(ious[c]) if ious[c] else 0.0
            rows.append((sum(ious[c]) / count, segmentation, len(ious[c]) / count))
    return tuple(sum(column) / len(rows) for column in zip(*rows, strict=True))


def pixels_of(rows: Sequence[Sequence[int]], segment: int) -> set[tuple[int, int]]:
    return {(y, x) for y, row in enumerate(rows) for x, value in enumerate(row) if value == segment}
