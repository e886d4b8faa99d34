"""PanopticQualityMetric on cases worked by hand, against a loop and against mmdet's metric."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

from mmdet.evaluation.functional import panoptic_utils
from mmdet.evaluation.metrics import coco_panoptic_metric
from mmdet.registry import METRICS

from mmdysample.mmdet import PanopticQualityMetric
from mmdysample.mmdet.panoptic import metric as metric_module
from mmdysample.mmdet.panoptic.quality import count_pairs
from mmdysample.mmdet.panoptic.segments import id_to_rgb, rgb_to_id
from tests.mmdet.panoptic_data import (
    CATEGORIES,
    LABELS,
    META,
    VOID_LABEL,
    Example,
    draw_examples,
    samples,
    write,
)
from tests.reference.panoptic_quality import panoptic_quality

CAT, DOG, SKY, SEA = 1, 4, 90, 91
V = VOID_LABEL
GROUPS = {"": range(4), "_th": range(2), "_st": range(2, 4)}


def make(root, classwise=False) -> PanopticQualityMetric:
    metric = METRICS.build(
        dict(
            type="PanopticQualityMetric",
            ann_file=str(root / "panoptic.json"),
            seg_prefix=str(root / "segments"),
            classwise=classwise,
        )
    )
    metric.dataset_meta = META
    return metric


def evaluate(root, examples, **kwargs) -> dict[str, float]:
    metric = make(root, **kwargs)
    for sample in samples(root, examples):
        metric.process({}, [sample])
    scores = metric.evaluate(len(examples))
    assert all(name.startswith("coco_panoptic/") for name in scores)
    return {name.removeprefix("coco_panoptic/"): value for name, value in scores.items()}


def score(tmp_path, *examples: Example) -> dict[str, float]:
    return evaluate(write(tmp_path / "data", list(examples)), examples, classwise=True)


def test_a_match_a_false_positive_and_a_miss(tmp_path):
    """Cat 1: truth columns 0-3, predicted 0-2: IoU 3/4. Cat 2 in column 4 is missed, a cat in
    column 5 is wrong: PQ = 0.75 / (1 + 1/2 + 1/2), SQ = 0.75, RQ = 1/2."""
    ids = [[11, 11, 11, 11, 12, 13]]
    prediction = [[1000, 1000, 1000, 2, 2, 2000]]
    # Sky: truth column 5, predicted 3-4: one miss, one wrong, so all 0.
    scores = score(tmp_path, Example(ids, {11: CAT, 12: CAT, 13: SKY}, prediction=prediction))
    assert scores["cat_PQ"] == pytest.approx(37.5, abs=1e-6)
    assert scores["cat_SQ"] == pytest.approx(75, abs=1e-6)
    assert scores["cat_RQ"] == pytest.approx(50, abs=1e-6)
    assert (scores["sky_PQ"], scores["sky_SQ"], scores["sky_RQ"]) == (0, 0, 0)
    # Two classes occur: the mean of 37.5 and 0, of 75 and 0, of 50 and 0.
    assert scores["PQ"] == pytest.approx(18.75, abs=1e-6)
    assert scores["SQ"] == pytest.approx(37.5, abs=1e-6)
    assert scores["RQ"] == pytest.approx(25, abs=1e-6)
    assert scores["PQ_th"] == pytest.approx(37.5, abs=1e-6)
    assert scores["PQ_st"] == 0


def test_half_is_not_enough_to_match(tmp_path):
    """IoU 2/4 is a miss and a wrong one; 3/5, 3 of 4 + 4 pixels, is a match."""
    ids = [[1, 1, 1, 1, 2, 2, 2, 2, 3]]
    prediction = [[1000, 1000, V, V, 2001, 2001, 2001, 3, 2001]]
    scores = score(tmp_path, Example(ids, {1: CAT, 2: DOG, 3: SKY}, prediction=prediction))
    assert scores["cat_PQ"] == 0
    assert scores["dog_SQ"] == scores["dog_PQ"] == pytest.approx(60, abs=1e-6)


@pytest.mark.parametrize(("on_void", "wrong"), [(4, 1), (5, 0)])
def test_a_prediction_mostly_on_void_is_not_counted(tmp_path, on_void, wrong):
    """Of 8 pixels, half on void is still wrong, 5 are not; a dog elsewhere is a match."""
    ids = [[0] * on_void + [9] * (8 - on_void) + [5] * 4]
    prediction = [[1000] * 8 + [2001] * 4]
    scores = score(tmp_path, Example(ids, {9: SKY, 5: DOG}, prediction=prediction))
    assert scores["dog_PQ"] == 100
    # The cat occurs, with nothing but its wrong one, or does not occur.
    assert (scores["cat_PQ"] == 0) if wrong else np.isnan(scores["cat_PQ"])


def test_void_and_crowd_add_up(tmp_path):
    """Of 8 pixels, 2 on void and 3 on the crowd are more than half; 2 and 2 are not."""
    first = Example(
        [[0, 0, 8, 8, 8, 9, 9, 9]], {8: CAT, 9: SKY}, {8}, [[1000] * 8]
    )  # the sky is missed
    assert np.isnan(score(tmp_path / "a", first)["cat_PQ"])
    second = Example([[0, 0, 8, 8, 9, 9, 9, 9]], {8: CAT, 9: SKY}, {8}, [[1000] * 8])
    assert score(tmp_path / "b", second)["cat_PQ"] == 0


@pytest.mark.parametrize("seed", range(2))
def test_random_examples_against_a_loop(tmp_path, seed):
    examples = draw_examples(seed, 8)
    scores = score(tmp_path, *examples)
    images = [
        (p.ids.tolist(), p.records, p.prediction.tolist(), p.predicted_records()) for p in examples
    ]
    for suffix, labels in GROUPS.items():
        expected = panoptic_quality(images, [CATEGORIES[label]["id"] for label in labels])
        assert 0.05 < expected[0] < 0.95
        for name, value in zip(("PQ", "SQ", "RQ"), expected, strict=True):
            assert scores[name + suffix] == pytest.approx(100 * value, abs=1e-6), name + suffix
    for category in CATEGORIES:
        expected = panoptic_quality(images, [category["id"]])
        for name, value in zip(("PQ", "SQ", "RQ"), expected, strict=True):
            key = f"{category['name']}_{name}"
            assert scores[key] == pytest.approx(100 * value, abs=1e-6), key


def no_counts() -> defaultdict:
    """What mmdet uses of panopticapi's ``PQStat``."""
    return defaultdict(lambda: SimpleNamespace(iou=0.0, tp=0, fp=0, fn=0))


@pytest.fixture
def panopticapi(monkeypatch) -> None:
    """Stands in for what mmdet imports from it. The algorithm mmdet has in a copy of its own."""
    for module in (panoptic_utils, coco_panoptic_metric):
        monkeypatch.setattr(module, "PQStat", no_counts)
        monkeypatch.setattr(module, "rgb2id", rgb_to_id)
        monkeypatch.setattr(module, "VOID", 0)
    monkeypatch.setattr(coco_panoptic_metric, "id2rgb", id_to_rgb)
    monkeypatch.setattr(coco_panoptic_metric, "panopticapi", panoptic_utils)


def test_counts_are_those_of_mmdets_metric(tmp_path, panopticapi):
    """mmdet's own works unchanged, built with another ``type`` and called with the same samples."""
    examples = draw_examples(6, 48)
    root = write(tmp_path / "data", examples)
    ours = make(root)
    theirs = METRICS.build(
        dict(type="CocoPanopticMetric", ann_file=ours.ann_file, seg_prefix=ours.seg_prefix)
    )
    for metric in (ours, theirs):
        metric.dataset_meta = META
        metric.process({}, samples(root, examples))
    assert len(ours.results) == len(theirs.results) == len(examples)
    for mine, other in zip(ours.results, theirs.results, strict=True):
        expected = {
            LABELS[category]: [pytest.approx(each.iou, abs=1e-9), each.tp, each.fp, each.fn]
            for category, each in other.items()
            if each.tp or each.fp or each.fn
        }
        assert mine == expected


def test_pairs_are_counted_as_pixels():
    random = np.random.default_rng(0)
    truth = random.choice([0, 1, 2**24 - 1], (37, 23))
    prediction = random.choice([0, 5, 100_133], (37, 23))
    expected: dict[tuple[int, int], int] = {}
    for pair in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        expected[pair] = expected.get(pair, 0) + 1
    assert count_pairs(truth, prediction) == expected


def test_label_zero_may_be_stuff(tmp_path):
    """Its id, 0, is not taken for void."""
    categories = [dict(id=90, name="sky", isthing=0), dict(id=91, name="sea", isthing=0)]
    example = Example([[1, 1, 2, 2]], {1: SKY, 2: SEA}, prediction=[[0, 0, 1, 1]])
    root = write(tmp_path / "data", [example], categories=categories)
    metric = make(root)
    metric.dataset_meta = dict(classes=("sky", "sea"))
    metric.process({}, samples(root, [example]))
    assert metric.evaluate(1)["coco_panoptic/PQ"] == 100


def test_another_label_for_void(tmp_path):
    example = Example([[1, 1, 1, 0, 0]], {1: CAT}, prediction=[[1000, 1000, 1000, 255, V]])
    root = write(tmp_path / "data", [example])
    metric = make(root)
    (sample,) = samples(root, [example])
    sample["pred_panoptic_seg"]["ignore_index"] = 255
    metric.process({}, [sample])
    assert metric.evaluate(1)["coco_panoptic/PQ"] == 100


def test_a_table_is_logged(tmp_path, monkeypatch):
    lines = []
    logger = SimpleNamespace(info=lambda text: lines.extend(text.splitlines()), log=print)
    monkeypatch.setattr(metric_module.MMLogger, "get_current_instance", lambda: logger)
    example = Example([[1, 1, 1, 2]], {1: CAT, 2: SKY}, prediction=[[1000, 1000, 1000, 3]])
    score(tmp_path, example)
    third = f"{100 / 3:.3f}"
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert ["all", third, third, third, "3"] in cells  # cat, sky and sea
    assert ["things", "100.000", "100.000", "100.000", "1"] in cells
    assert ["stuff", "0.000", "0.000", "0.000", "2"] in cells
    assert ["cat", "100.000", "100.000", "100.000", "1"] in cells


EXAMPLE = dict(ids=[[1, 1, 2, 2]], categories={1: CAT, 2: SKY}, prediction=[[1000, 1000, 2, 2]])


def failing(tmp_path, spoil) -> str:
    """What the metric says about a data set that ``spoil`` has spoilt."""
    example = Example(**EXAMPLE)
    root = write(tmp_path / "data", [example])
    (sample,) = samples(root, [example])
    spoil(root, sample)
    with pytest.raises(ValueError) as caught:
        make(root).process({}, [sample])
    message = str(caught.value).replace(str(root), "ROOT")
    assert "\n" not in message
    return message


def png(make):
    """Change the bytes of the PNG file."""

    def spoil(root, sample):
        path = root / "segments/001.png"
        path.write_bytes(make(path.read_bytes()))

    return spoil


def encoded(rows) -> bytes:
    return cv2.imencode(".png", np.array(rows, np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda root, _: (root / "segments/001.png").unlink(), "ROOT/images/001.jpg do not exist"),
        (png(lambda _: b""), "ROOT/segments/001.png cannot be read"),
        (png(lambda content: content[:20]), "ROOT/segments/001.png cannot be read"),
        (
            png(lambda _: encoded(np.zeros((3, 5, 3)))),
            "the panoptic segments ROOT/segments/001.png are 3x5 (height x width), but their image "
            "ROOT/images/001.jpg is 1x4",
        ),
        (png(lambda _: encoded([[[0, 0, 77]] * 4])), "001.png has pixels of segment 77, which"),
        (lambda _, sample: sample.update(img_id=9), "001.jpg (id 9) has no annotation in ROOT/pan"),
    ],
    ids=["missing", "empty", "truncated", "another size", "unknown segment", "unknown image"],
)
def test_files_that_do_not_fit(tmp_path, spoil, says):
    assert says in failing(tmp_path, spoil)


def test_an_area_that_is_too_small(tmp_path):
    """panopticapi takes areas from the file: an IoU could come out above 1."""

    def spoil(root, sample):
        text = (root / "panoptic.json").read_text()
        (root / "panoptic.json").write_text(text.replace('"area": 2', '"area": 1', 1))

    assert failing(tmp_path, spoil) == (
        "segment 1 has 2 pixels in ROOT/segments/001.png, but an area of 1 in the annotation file"
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (dict(annotations=[]), "panoptic.json lists no segments"),
        (dict(annotations=[dict(image_id=1)]), "annotation of image 1 in .* has no 'file_name'"),
        (dict(categories=CATEGORIES[:1]), "segment 2 of image 1 in .* is of category 90, which"),
    ],
)
def test_the_annotation_file_is_checked_before_the_training(tmp_path, changes, expected):
    root = write(tmp_path / "data", [Example(**EXAMPLE)], **changes)
    with pytest.raises(ValueError, match=expected):
        make(root)


def test_the_classes_are_checked_when_they_are_known(tmp_path):
    root = write(tmp_path / "data", [Example(**EXAMPLE)], categories=CATEGORIES[::-1])
    with pytest.raises(ValueError, match="in the order of the categories of"):
        make(root).categories  # noqa: B018


def test_a_missing_directory_is_told_before_the_training(tmp_path):
    root = write(tmp_path / "data", [Example(**EXAMPLE)])
    (root / "segments").rename(root / "elsewhere")
    with pytest.raises(ValueError, match=r"seg_prefix='.*/segments' of PanopticQualityMetric is"):
        make(root)


def test_a_prediction_that_does_not_fit(tmp_path):
    def smaller(root, sample):
        sample["pred_panoptic_seg"]["sem_seg"] = torch.zeros(1, 2, 2, dtype=torch.int)

    def of_more_classes(root, sample):
        sample["pred_panoptic_seg"]["sem_seg"][0, 0, 0] = 1007

    def of_boxes(root, sample):
        sample["pred_instances"] = sample.pop("pred_panoptic_seg")

    assert "is 2x2 (height x width), the image is 1x4" in failing(tmp_path / "a", smaller)
    message = failing(tmp_path / "b", of_more_classes)
    assert "the model predicts class 7 in" in message and "4 classes, 0 to 3" in message
    assert "needs a model that predicts pred_panoptic_seg; this one predicts pred_instances" in (
        failing(tmp_path / "c", of_boxes)
    )
