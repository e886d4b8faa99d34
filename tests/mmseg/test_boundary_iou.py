"""BoundaryIoUMetric against loops, cases worked by hand, and mmseg's IoUMetric."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmseg.evaluation import IoUMetric

from mmdysample.mmseg import BoundaryIoUMetric
from mmdysample.mmseg import boundary_iou as boundary_iou_module
from mmdysample.mmseg.boundary_iou import boundary_band
from tests.reference.boundary_iou import IGNORED, band, boundary_iou


def make(classes: int = 6, cls=BoundaryIoUMetric, **kwargs) -> IoUMetric:
    metric = cls(**kwargs)
    metric.dataset_meta = dict(classes=[f"class {n}" for n in range(classes)])
    return metric


def make_samples(maps: list[tuple[Tensor, Tensor]]) -> list[dict]:
    """As mmseg's loops hand them over; label maps are uint8 there."""
    return [
        dict(
            pred_sem_seg=dict(data=pred[None].long()),
            gt_sem_seg=dict(data=label[None].to(torch.uint8)),
            img_path=f"images/{n}.jpg",
            seg_map_path=f"annotations/{n}.png",
        )
        for n, (pred, label) in enumerate(maps)
    ]


def evaluate(metric: IoUMetric, maps: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    metric.process({}, make_samples(maps))
    return metric.evaluate(len(maps))


def draw(height: int, width: int, classes: int, cell: int) -> Tensor:
    """Random regions, about ``cell`` pixels large."""
    scores = torch.randn(1, classes, -(-height // cell), -(-width // cell))
    return F.interpolate(scores, size=(height, width), mode="bilinear").argmax(1)[0]


def draw_pair(height: int, width: int, classes: int = 5, cell: int = 6) -> tuple[Tensor, Tensor]:
    """A ground truth with ignored regions, and a prediction that is mostly right."""
    label = draw(height, width, classes, cell)
    pred = torch.where(draw(height, width, 3, cell) == 0, draw(height, width, classes, cell), label)
    label[draw(height, width, 5, cell) == 0] = IGNORED
    return pred, label


SIZES = [(1, 1), (1, 9), (2, 3), (4, 4), (5, 5), (23, 17), (31, 40)]


@pytest.mark.parametrize("distance", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_bands_of_all_classes_are_those_of_each(size, distance):
    labels = draw(*size, 4, cell=7)
    ratio = distance / float(np.hypot(*size))
    expected = np.zeros(size, bool)
    for c in range(4):
        expected |= band((labels == c).numpy(), ratio)
    np.testing.assert_array_equal(boundary_band(labels, distance).numpy(), expected)


@pytest.mark.parametrize("ratio", [0.02, 0.1])
def test_random_maps_are_as_in_the_loop(ratio):
    maps = [draw_pair(*size) for size in SIZES for _ in range(2)]
    expected = boundary_iou([(pred.numpy(), label.numpy()) for pred, label in maps], 6, ratio)
    assert np.isnan(expected[5]) and 0.2 < np.nanmean(expected) < 0.8
    metric = make(dilation_ratio=ratio, prefix="val")
    assert evaluate(metric, maps)["val/bIoU"] == round(100 * np.nanmean(expected), 2)


def test_the_paper_s_distance_is_a_fiftieth_of_the_diagonal():
    """60x80: the diagonal is 100, the band 2 pixels wide."""
    label = torch.zeros(60, 80)
    _, *_, band_area = process_one(label, label)
    assert band_area[0] == 60 * 80 - 56 * 76


def process_one(pred: Tensor, label: Tensor, **kwargs) -> tuple[Tensor, ...]:
    metric = make(**kwargs)
    metric.process({}, make_samples([(pred, label)]))
    (areas,) = metric.results
    return areas


def test_a_square_that_is_shifted_by_a_pixel():
    """A 6x6 square in 20x20, bands 1 pixel wide: 20 pixels each, of which 4 + 2*5 - 4 = 10 match.

    The rings of squares at columns 7..12 and 8..13 share the rows 7 and 12 at columns 8..12, five
    pixels each. The background's bands are the image's border (76 pixels) and the ring around the
    square (28), which share 76 and, at columns 7..13 of the rows 6 and 13, seven pixels each.
    """
    label, pred = torch.zeros(20, 20), torch.zeros(20, 20)
    label[7:13, 7:13] = 1
    pred[7:13, 8:14] = 1
    *_, both, predicted, true = process_one(pred, label)
    assert true.tolist() == predicted.tolist() == [104, 20, 0, 0, 0, 0]
    assert both.tolist() == [90, 10, 0, 0, 0, 0]
    result = evaluate(make(), [(pred, label)])
    assert result["bIoU"] == round(100 * (90 / 118 + 10 / 30) / 2, 2)
    assert result["mIoU"] == round(100 * (358 / 370 + 30 / 42) / 2, 2)


def test_what_is_predicted_in_ignored_pixels_does_not_matter():
    pred, label = draw_pair(31, 40)
    other = torch.where(label == IGNORED, torch.randint(5, label.shape), pred)
    assert not torch.equal(other, pred)
    for areas, expected in zip(process_one(other, label), process_one(pred, label), strict=True):
        assert torch.equal(areas, expected)


def test_a_class_may_be_the_ignored_label():
    """Where it is predicted and something else is true, it is one more wrong class."""
    pred, label = draw_pair(31, 40)
    label[label == 4] = 0
    assert ((pred == 4) & (label != IGNORED)).any()
    expected = boundary_iou([(pred.numpy(), label.numpy())], 6, 0.02)
    assert expected[4] == 0
    label[label == IGNORED] = 4
    result = evaluate(make(ignore_index=4), [(pred, label)])
    assert result["bIoU"] == round(100 * np.nanmean(expected), 2)


def test_a_perfect_prediction_has_100_percent():
    _, label = draw_pair(31, 40)
    right = torch.where(label == IGNORED, 0, label)
    result = evaluate(make(), [(right, label)])
    assert result["bIoU"] == result["mIoU"] == 100


def test_the_other_results_are_mmsegs():
    maps = [draw_pair(*size) for size in SIZES]
    kwargs = dict(iou_metrics=["mIoU", "mDice", "mFscore"], nan_to_num=0)
    expected = evaluate(make(cls=IoUMetric, **kwargs), maps)
    result = evaluate(make(**kwargs), maps)
    assert {"aAcc", "mIoU", "mAcc", "mDice", "mFscore"} < expected.keys()
    ours = result.pop("bIoU")
    assert result == expected
    # class 5 is nowhere: 0 in place of nan
    per_class = boundary_iou([(pred.numpy(), label.numpy()) for pred, label in maps], 6, 0.02)
    assert ours == round(100 * np.mean(np.nan_to_num(per_class)), 2)


def test_each_class_is_logged(monkeypatch):
    logged = []
    monkeypatch.setattr(boundary_iou_module, "print_log", lambda text, logger: logged.append(text))
    label = torch.zeros(20, 20)
    evaluate(make(2), [(label, label)])
    assert [line.split() for line in logged[0].splitlines() if "class" in line] == [
        ["per", "class", "boundary", "IoU:"],
        ["|", "class", "0", "|", "100.0", "|"],
        ["|", "class", "1", "|", "nan", "|"],
    ]


def test_predictions_alone_can_be_written(tmp_path):
    metric = make(format_only=True, output_dir=str(tmp_path))
    assert evaluate(metric, [draw_pair(31, 40)]) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["0.png"]


def test_user_errors():
    label = torch.zeros(8, 9)
    (sample,) = make_samples([(label, label)])
    del sample["gt_sem_seg"]
    with pytest.raises(
        ValueError, match=r"images/0.jpg comes without its ground truth.*LoadAnnotations"
    ):
        make().process({}, [sample])
    empty = torch.full((8, 9), IGNORED)
    with pytest.raises(ValueError, match="whole data set is empty: all pixels of its 2 label maps"):
        evaluate(make(), [(label, empty)] * 2)
    for ratio in (0, 1, -0.1, "2%"):
        with pytest.raises(ValueError, match=f"dilation_ratio must lie .* 0 and 1, got {ratio!r}"):
            make(dilation_ratio=ratio)


def test_one_empty_label_map_among_others_counts_nothing():
    pair = draw_pair(31, 40)
    empty = torch.full((8, 9), IGNORED)
    assert evaluate(make(), [pair, (torch.zeros(8, 9), empty)]) == evaluate(make(), [pair])


def test_binary_predictions_are_floating_point():
    """mmseg thresholds one output channel into 0. and 1."""
    pred, label = draw_pair(40, 50, classes=2)
    metrics = evaluate(make(2), [(pred, label)])
    samples = make_samples([(pred, label)])
    samples[0]["pred_sem_seg"]["data"] = samples[0]["pred_sem_seg"]["data"].float()
    metric = make(2)
    metric.process({}, samples)
    assert metric.evaluate(1) == metrics


def test_the_papers_configs_report_it():
    bases = (Path(__file__).parents[2] / "configs/_base_").glob("*_ade20k-*.py")
    reporting = {path.stem.split("_")[0] for path in bases if "BoundaryIoU" in path.read_text()}
    assert reporting == {"segformer", "maskformer", "mask2former", "upernet"}
