"""PanopticQualityMetric on cases worked by hand, against a loop and against mmdet's metric."""

from __future__ import annotations

import json
import logging
import multiprocessing

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

from mmdet.evaluation.functional import panoptic_utils
from mmdet.evaluation.metrics import coco_panoptic_metric
from mmdet.registry import METRICS

from mmdysample.mmdet import PanopticQualityMetric
from mmdysample.mmdet.panoptic.quality import count_pairs
from mmdysample.mmdet.panoptic.segments import match_categories
from tests.mmdet.panoptic_data import (
    CATEGORIES,
    CLASSES,
    META,
    VOID_LABEL,
    Picture,
    draw_pictures,
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


def evaluate(root, pictures, **kwargs) -> dict[str, float]:
    metric = make(root, **kwargs)
    for sample in samples(root, pictures):
        metric.process({}, [sample])
    scores = metric.evaluate(len(pictures))
    assert all(name.startswith("coco_panoptic/") for name in scores)
    return {name.removeprefix("coco_panoptic/"): value for name, value in scores.items()}


def score(tmp_path, *pictures: Picture) -> dict[str, float]:
    return evaluate(write(tmp_path / "data", list(pictures)), pictures, classwise=True)


def test_a_perfect_prediction_has_full_marks(tmp_path):
    ids = [[7, 7, 300, 300], [7, 7, 300, 300], [70000, 70000, 70000, 0]]
    prediction = [[1000, 1000, 2000, 2000], [1000, 1000, 2000, 2000], [2, 2, 2, V]]
    scores = score(tmp_path, Picture(ids, {7: CAT, 300: CAT, 70000: SKY}, prediction=prediction))
    for name in ("PQ", "SQ", "RQ", "PQ_th", "RQ_th", "PQ_st", "cat_PQ", "sky_SQ"):
        assert scores[name] == 100
    assert np.isnan(scores["sea_PQ"]) and np.isnan(scores["dog_RQ"])


def test_a_match_a_false_positive_and_a_miss(tmp_path):
    """Cat 1: truth columns 0-3, predicted 0-2: IoU 3/4. Cat 2 in column 4 is missed, a cat in
    column 5 is wrong: PQ = 0.75 / (1 + 1/2 + 1/2), SQ = 0.75, RQ = 1/2."""
    ids = [[11, 11, 11, 11, 12, 13]]
    prediction = [[1000, 1000, 1000, 2, 2, 2000]]
    # Sky: truth column 5, predicted 3-4: one miss, one wrong, so all 0.
    scores = score(tmp_path, Picture(ids, {11: CAT, 12: CAT, 13: SKY}, prediction=prediction))
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
    scores = score(tmp_path, Picture(ids, {1: CAT, 2: DOG, 3: SKY}, prediction=prediction))
    assert scores["cat_PQ"] == 0
    assert scores["dog_SQ"] == scores["dog_PQ"] == pytest.approx(60, abs=1e-6)


def test_void_is_left_out_of_the_union(tmp_path):
    """Truth 4 pixels, predicted these and 4 of void: 4 / (8 + 4 - 4 - 4), not 4/8."""
    ids = [[1, 1, 1, 1, 0, 0, 0, 0]]
    prediction = [[1000] * 8]
    scores = score(tmp_path, Picture(ids, {1: CAT}, prediction=prediction))
    assert scores["cat_PQ"] == 100


@pytest.mark.parametrize(("on_void", "wrong"), [(4, 1), (5, 0)])
def test_a_prediction_mostly_on_void_is_not_counted(tmp_path, on_void, wrong):
    """Of 8 pixels, half on void is still wrong, 5 are not; a dog elsewhere is a match."""
    ids = [[0] * on_void + [9] * (8 - on_void) + [5] * 4]
    prediction = [[1000] * 8 + [2001] * 4]
    scores = score(tmp_path, Picture(ids, {9: SKY, 5: DOG}, prediction=prediction))
    assert scores["dog_PQ"] == 100
    # The cat occurs, with nothing but its wrong one, or does not occur.
    assert (scores["cat_PQ"] == 0) if wrong else np.isnan(scores["cat_PQ"])


@pytest.mark.parametrize(
    ("category", "label", "occurs"), [(CAT, 0, False), (CAT, 1, True), (DOG, 0, True)]
)
def test_a_crowd_excuses_predictions_of_its_class(tmp_path, category, label, occurs):
    """A crowd of 4 is covered: neither match nor miss, and not wrong if of the same class."""
    ids = [[8, 8, 8, 8, 9, 9]]
    prediction = [[1000 + label] * 4 + [2] * 2]
    scores = score(tmp_path, Picture(ids, {8: category, 9: SKY}, crowds={8}, prediction=prediction))
    assert (scores[f"{CLASSES[label]}_PQ"] == 0) if occurs else np.isnan(scores["cat_PQ"])
    other = "dog" if category == DOG else "cat"
    if CLASSES[label] != other:
        assert np.isnan(scores[f"{other}_PQ"]), "a crowd is not missed"


def test_void_and_crowd_add_up(tmp_path):
    """Of 8 pixels, 2 on void and 3 on the crowd are more than half; 2 and 2 are not."""
    first = Picture(
        [[0, 0, 8, 8, 8, 9, 9, 9]], {8: CAT, 9: SKY}, {8}, [[1000] * 8]
    )  # the sky is missed
    assert np.isnan(score(tmp_path / "a", first)["cat_PQ"])
    second = Picture([[0, 0, 8, 8, 9, 9, 9, 9]], {8: CAT, 9: SKY}, {8}, [[1000] * 8])
    assert score(tmp_path / "b", second)["cat_PQ"] == 0


def test_images_are_added_before_the_division(tmp_path):
    """IoU 1 in one image and a miss in the other: 1 / (1 + 1/2), not the mean of 1 and 0."""
    scores = score(
        tmp_path,
        Picture([[1, 1, 1, 2]], {1: CAT, 2: SKY}, prediction=[[1000, 1000, 1000, 2]]),
        Picture([[1, 1, 1, 2]], {1: CAT, 2: SKY}, prediction=[[V, V, V, 2]]),
    )
    assert scores["cat_PQ"] == pytest.approx(200 / 3, abs=1e-6)
    assert scores["cat_SQ"] == 100
    assert scores["PQ"] == pytest.approx((200 / 3 + 100) / 2, abs=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_random_pictures_against_a_loop(tmp_path, seed):
    pictures = draw_pictures(seed, 8)
    scores = score(tmp_path, *pictures)
    images = [
        (p.ids.tolist(), p.records, p.prediction.tolist(), p.predicted_records()) for p in pictures
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


class Counts:
    """What mmdet uses of panopticapi's ``PQStatCat``."""

    def __init__(self) -> None:
        self.iou, self.tp, self.fp, self.fn = 0.0, 0, 0, 0


class CountsByCategory(dict):
    """What mmdet uses of panopticapi's ``PQStat``."""

    def __missing__(self, category: int) -> Counts:
        return self.setdefault(category, Counts())

    def __iadd__(self, other: CountsByCategory) -> CountsByCategory:
        for category, counts in other.items():
            for name, value in vars(counts).items():
                setattr(self[category], name, getattr(self[category], name) + value)
        return self

    def pq_average(self, categories: dict, isthing: bool | None) -> tuple[dict, dict]:
        rows = {}
        for category, record in categories.items():
            c = self[category]
            if isthing is not None and record["isthing"] != isthing:
                continue
            if c.tp + c.fp + c.fn:
                count = c.tp + c.fp / 2 + c.fn / 2
                sq = c.iou / c.tp if c.tp else 0.0
                rows[category] = dict(pq=c.iou / count, sq=sq, rq=c.tp / count)
        means = {
            key: sum(row[key] for row in rows.values()) / len(rows) for key in ("pq", "sq", "rq")
        }
        return means | dict(n=len(rows)), rows


def panopticapi_rgb2id(colors):
    return colors.astype(np.int64) @ np.array([1, 256, 256**2])


def panopticapi_id2rgb(ids):
    return ids[..., None] >> np.array([0, 8, 16]) & 255


@pytest.fixture
def panopticapi(monkeypatch) -> None:
    """Stands in for what mmdet imports from it. The algorithm mmdet has in a copy of its own."""
    for module in (panoptic_utils, coco_panoptic_metric):
        monkeypatch.setattr(module, "PQStat", CountsByCategory)
        monkeypatch.setattr(module, "rgb2id", panopticapi_rgb2id)
        monkeypatch.setattr(module, "VOID", 0)
    monkeypatch.setattr(coco_panoptic_metric, "id2rgb", panopticapi_id2rgb)
    monkeypatch.setattr(coco_panoptic_metric, "panopticapi", panoptic_utils)


@pytest.mark.parametrize("seed", range(6, 10))
def test_random_pictures_against_mmdets_metric(tmp_path, panopticapi, seed):
    """mmdet's own works unchanged, built with another ``type`` and called with the same samples."""
    pictures = draw_pictures(seed, 24)
    root = write(tmp_path / "data", pictures)
    settings = dict(ann_file=str(root / "panoptic.json"), seg_prefix=str(root / "segments"))
    scores, counts = [], []
    for kind in ("CocoPanopticMetric", "PanopticQualityMetric"):
        metric = METRICS.build(dict(type=kind, **settings))
        metric.dataset_meta = META
        metric.process({}, samples(root, pictures))
        counts.append(list(metric.results))
        scores.append(metric.evaluate(len(pictures)))
    theirs, ours = scores
    assert len(theirs) == 9
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-6), name
    for (labels, rows), expected in zip(counts[1], counts[0], strict=True):
        for label, row in zip(labels, rows, strict=True):
            other = expected[CATEGORIES[label]["id"]]
            assert row[0] == pytest.approx(other.iou, abs=1e-9)
            assert row[1:].tolist() == [other.tp, other.fp, other.fn]
    assert all(0 < value < 100 for value in theirs.values())


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
    picture = Picture([[1, 1, 2, 2]], {1: SKY, 2: SEA}, prediction=[[0, 0, 1, 1]])
    root = write(tmp_path / "data", [picture], categories=categories)
    metric = make(root)
    metric.dataset_meta = dict(classes=("sky", "sea"))
    metric.process({}, samples(root, [picture]))
    assert metric.evaluate(1)["coco_panoptic/PQ"] == 100


def test_another_label_for_void(tmp_path):
    picture = Picture([[1, 1, 1, 0]], {1: CAT}, prediction=[[1000, 1000, 1000, 255]])
    root = write(tmp_path / "data", [picture])
    metric = make(root)
    (sample,) = samples(root, [picture])
    sample["pred_panoptic_seg"]["ignore_index"] = 255
    metric.process({}, [sample])
    assert metric.evaluate(1)["coco_panoptic/PQ"] == 100


def test_a_table_of_all_things_and_stuff_is_logged(tmp_path, caplog):
    picture = Picture([[1, 1, 1, 2]], {1: CAT, 2: SKY}, prediction=[[1000, 1000, 1000, 3]])
    logger = logging.getLogger("test_panoptic")
    metric = make(write(tmp_path / "data", [picture]), classwise=True)
    metric.process({}, samples(tmp_path / "data", [picture]))
    with caplog.at_level(logging.INFO), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "mmdysample.mmdet.panoptic.metric.MMLogger.get_current_instance", lambda: logger
        )
        metric.evaluate(1)
    lines = [[cell.strip() for cell in line.split("|")] for line in caplog.text.splitlines()]
    third = f"{100 / 3:.3f}"
    assert ["", "all", third, third, third, "3", ""] in lines  # cat, sky and sea
    assert ["", "things", "100.000", "100.000", "100.000", "1", ""] in lines
    assert ["", "stuff", "0.000", "0.000", "0.000", "2", ""] in lines
    assert ["", "cat", "100.000", "100.000", "100.000", ""] in lines


def test_groups_that_do_not_occur_are_told(tmp_path, caplog):
    picture = Picture([[1, 1, 1, 2]], {1: SKY, 2: SEA}, prediction=[[2, 2, 2, 3]])
    logger = logging.getLogger("test_panoptic")
    metric = make(write(tmp_path / "data", [picture]))
    metric.process({}, samples(tmp_path / "data", [picture]))
    with caplog.at_level(logging.INFO), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "mmdysample.mmdet.panoptic.metric.MMLogger.get_current_instance", lambda: logger
        )
        scores = metric.evaluate(1)
    assert np.isnan(scores["coco_panoptic/PQ_th"])
    assert scores["coco_panoptic/PQ"] == scores["coco_panoptic/PQ_st"] == 100
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "Panoptic quality of things is not defined" in warnings[0]


def test_what_is_kept_of_an_image_is_small(tmp_path):
    """5,000 images of COCO stay far below their maps of 640x480 pixels: some rows of numbers."""
    pictures = draw_pictures(0, 4)
    metric = make(write(tmp_path / "data", pictures))
    metric.process({}, samples(tmp_path / "data", pictures))
    for labels, rows in metric.results:
        assert labels.nbytes + rows.nbytes <= len(CATEGORIES) * 5 * 8


def _run_process(rank: int, root, pictures, queue) -> None:
    address = f"file://{root}/meeting-place"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    metric = make(root)
    every = samples(root, pictures)
    # A sampler deals the images out and fills the last round up from the start.
    for sample in [*every, every[0]][rank::2]:
        metric.process({}, [sample])
    scores = metric.evaluate(len(pictures))
    queue.put((rank, scores))


def test_two_processes_give_the_numbers_of_one(tmp_path):
    pictures = draw_pictures(3, 5)
    root = write(tmp_path / "data", pictures)
    expected = evaluate(root, pictures)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [
        context.Process(target=_run_process, args=(rank, root, pictures, queue), daemon=True)
        for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    for rank in (0, 1):
        assert found[rank] == {
            f"coco_panoptic/{name}": pytest.approx(value, abs=1e-9)
            for name, value in expected.items()
        }


PICTURE = dict(ids=[[1, 1, 2, 2]], categories={1: CAT, 2: SKY}, prediction=[[1000, 1000, 2, 2]])


def failing(tmp_path, spoil, **changes) -> str:
    """What the metric says about a data set that ``spoil`` has spoilt."""
    picture = Picture(**PICTURE)
    root = write(tmp_path / "data", [picture], **changes)
    (sample,) = samples(root, [picture])
    if spoil is not None:
        spoil(root, sample)
    with pytest.raises(ValueError) as caught:
        make(root).process({}, [sample])
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_missing_png(tmp_path):
    message = failing(tmp_path, lambda root, _: (root / "segments/001.png").unlink())
    assert message == (
        f"the panoptic segments {tmp_path}/data/segments/001.png of image "
        f"{tmp_path}/data/images/001.jpg do not exist"
    )


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_a_damaged_png(tmp_path, content):
    message = failing(tmp_path, lambda root, _: (root / "segments/001.png").write_bytes(content))
    assert message.startswith(f"{tmp_path}/data/segments/001.png cannot be read")


def test_a_png_of_another_size(tmp_path):
    def spoil(root, sample):
        cv2.imwrite(str(root / "segments/001.png"), np.zeros((3, 5, 3), np.uint8))

    message = failing(tmp_path, spoil)
    assert "segments/001.png are 3x5 (height x width), but their image" in message
    assert message.endswith("images/001.jpg is 1x4")


def test_a_segment_that_the_json_lacks(tmp_path):
    def spoil(root, sample):
        cv2.imwrite(str(root / "segments/001.png"), np.array([[[0, 0, 77]] * 4], np.uint8))

    assert "segments/001.png has pixels of segment 77, which the annotation" in failing(
        tmp_path, spoil
    )


def test_a_category_outside_the_classes(tmp_path):
    records = Picture(**PICTURE).records
    records[1]["category_id"] = 1234
    annotation = dict(image_id=1, file_name="001.png", segments_info=records)
    message = failing(tmp_path, None, annotations=[annotation])
    assert "segment 2 of image 1 in" in message
    assert message.endswith("is of category 1234, which is none of the classes of metainfo")


def test_an_area_that_is_too_small(tmp_path):
    """panopticapi takes areas from the file: an IoU could come out above 1."""
    records = Picture(**PICTURE).records
    records[0]["area"] = 1
    annotation = dict(image_id=1, file_name="001.png", segments_info=records)
    message = failing(tmp_path, None, annotations=[annotation])
    assert message.startswith("segment 1 has 2 pixels in ")
    assert message.endswith("001.png, but an area of 1 in the annotation file")


def test_a_segment_with_the_id_of_void(tmp_path):
    records = Picture(**PICTURE).records
    records[1]["id"] = 0
    annotation = dict(image_id=1, file_name="001.png", segments_info=records)
    message = failing(tmp_path, None, annotations=[annotation])
    assert message.endswith("panoptic.json has the id 0, which stands for void")


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ([], "panoptic.json lists no segments: there is no ground truth to compare"),
        (
            [dict(image_id=1, file_name="001.png", segments_info=[])],
            "panoptic.json lists no segments: there is no ground truth to compare",
        ),
        ([dict(image_id=1, segments_info=[])], "an annotation of .* has no 'file_name'"),
    ],
)
def test_no_ground_truth(tmp_path, annotations, expected):
    root = write(tmp_path / "data", [Picture(**PICTURE)], annotations=annotations)
    with pytest.raises(ValueError, match=expected):
        make(root)


def test_an_image_with_several_annotations(tmp_path):
    """Predictions would be compared with the last of them alone."""
    records = Picture(**PICTURE).records
    annotation = dict(image_id=1, file_name="001.png", segments_info=records)
    message = failing(tmp_path, None, annotations=[annotation, annotation])
    assert message == f"{tmp_path}/data/panoptic.json has several annotations of image 1"


def test_a_file_in_another_format(tmp_path):
    root = write(tmp_path / "data", [Picture(**PICTURE)])
    for content, key in (([], "categories"), (dict(categories=[]), "annotations")):
        (root / "panoptic.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=f"has no '{key}': it is not in COCO's panoptic"):
            make(root)


def test_a_file_that_is_not_json(tmp_path):
    root = write(tmp_path / "data", [Picture(**PICTURE)])
    (root / "panoptic.json").write_text('{"images": ')
    with pytest.raises(ValueError, match=r"panoptic\.json is not valid JSON: Expecting value"):
        make(root)


def test_a_missing_folder_is_told_before_the_training(tmp_path):
    root = write(tmp_path / "data", [Picture(**PICTURE)])
    (root / "segments").rename(root / "elsewhere")
    with pytest.raises(ValueError, match=r"seg_prefix='.*/segments' of PanopticQualityMetric is"):
        make(root)


def test_an_image_without_annotation(tmp_path):
    message = failing(tmp_path, lambda _, sample: sample.update(img_id=9))
    assert "images/001.jpg (id 9) has no annotation in" in message


@pytest.mark.parametrize(
    ("categories", "expected"),
    [
        (CATEGORIES[:3], "class 'sea' of metainfo is not among the categories of"),
        (CATEGORIES[::-1], "in the order of the categories of .*'cat' stands where that has 'sea'"),
        ([dict(id=c["id"], name=c["name"]) for c in CATEGORIES], "category 'cat' of .* 'isthing'"),
    ],
)
def test_other_categories(tmp_path, categories, expected):
    picture = Picture(**PICTURE)
    root = write(tmp_path / "data", [picture], categories=categories)
    with pytest.raises(ValueError, match=expected):
        make(root).process({}, samples(root, [picture]))


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


@pytest.mark.parametrize(
    ("categories", "says"),
    [
        ([dict(id=1, isthing=1)], "no 'name'"),
        ([dict(id=i, name="disk", isthing=1) for i in (1, 2)], "several categories"),
    ],
    ids=["no name", "one name twice"],
)
def test_categories_that_cannot_be_told_apart(categories, says):
    with pytest.raises(ValueError, match=says):
        match_categories(categories, ("disk",), "panoptic.json")
