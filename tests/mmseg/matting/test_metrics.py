"""The four errors of alpha mattes, against loops and in closed form."""

from __future__ import annotations

import errno
import math
from pathlib import Path

import pytest

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import cv2
import numpy as np
import torch
from mmengine.logging import MMLogger
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmdysample.errors import InvalidType, InvalidValue, UserError
from mmdysample.mmseg.matting.metrics import (
    MattingMetric,
    connectivity_error,
    gradient_error,
    mean_squared_error,
    sum_of_absolute_differences,
)
from tests.reference import matting_metrics as reference

PAIRS = {
    "SAD": (sum_of_absolute_differences, reference.sad),
    "MSE": (mean_squared_error, reference.mse),
    "Grad": (gradient_error, reference.grad),
    "Conn": (connectivity_error, reference.conn),
}
SIZES = ((1, 1), (1, 13), (17, 5), (24, 31))


def blobs(seed: int, shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Two alphas of few values with several components, and a trimap of all three values."""
    random = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(random.normal(size=(*shape, 2)), (0, 0), 1.5).reshape(*shape, 2)
    # multiples of 25.5 and their neighbors: where thresholds are
    grid = np.rint(np.arange(11) * 25.5).astype(int)
    steps = np.clip(np.rint(noise * 20 + 5), 0, 10).astype(int)
    pred, true = (grid[steps[..., i]] + random.integers(-1, 2, shape) for i in range(2))
    trimap = random.choice([0, 128, 255], shape, p=[0.2, 0.6, 0.2])
    trimap.flat[0] = 128
    return tuple(np.clip(each, 0, 255).astype(np.uint8) for each in (pred, true, trimap))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_against_loops(name, shape, seed):
    function, expected = PAIRS[name]
    pred, true, trimap = blobs(seed, shape)
    value = function(pred, true, trimap == 128)
    assert value == pytest.approx(expected(pred, true, trimap), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_identical(name):
    pred, _, trimap = blobs(0, (24, 31))
    assert PAIRS[name][0](pred, pred.copy(), trimap == 128) == 0


@pytest.mark.parametrize("name", PAIRS)
def test_arguments_exchanged(name):
    pred, true, trimap = blobs(1, (24, 31))
    function = PAIRS[name][0]
    unknown = trimap == 128
    assert function(pred, true, unknown) == pytest.approx(function(true, pred, unknown)) != 0


def test_a_constant_error():
    """An error of 51/255 = 0.2 on 60 pixels: SAD 60 * 0.2 / 1000, MSE 0.04."""
    true = np.full((10, 10), 102, np.uint8)
    pred = true + 51
    unknown = np.zeros((10, 10), bool)
    unknown[:6] = True
    pred[6:] = 0  # does not count
    assert sum_of_absolute_differences(pred, true, unknown) == pytest.approx(0.012)
    assert mean_squared_error(pred, true, unknown) == pytest.approx(0.04)


def test_gradient_of_a_step():
    """At an infinite vertical edge the gradient is the sum of half of the kernel, by hand."""
    true = np.zeros((41, 41), np.uint8)
    pred = true.copy()
    pred[:, 21:] = 200  # scaled to be 1
    unknown = np.zeros(true.shape, bool)
    unknown[20, 20] = True
    weights = [math.exp(-(x**2) / (2 * 1.4**2)) for x in range(-4, 5)]
    slopes = [x * weight for x, weight in zip(range(-4, 5), weights, strict=True)]
    norm = math.sqrt(sum(w**2 for w in weights) * sum(s**2 for s in slopes))
    length = sum(weights) * sum(slopes[5:]) / norm
    assert gradient_error(pred, true, unknown) == pytest.approx(length**2 / 1000)


def test_gradient_of_scaled_alphas():
    """Both are scaled over the whole image, so a matte of half the contrast has no error."""
    true = np.zeros((30, 30), np.uint8)
    true[:, 10:] = 200
    assert gradient_error(true // 2 + 30, true, np.ones(true.shape, bool)) == pytest.approx(0)


def test_a_detached_blob():
    """True: a block of 20 opaque pixels and 6 of alpha a apart from it. Predicted: the block alone.

    The 6 leave the largest component at 0.1, so l = 0, d = a and 0, and phi = 1 - a and 1.
    """
    true = np.zeros((8, 12), np.uint8)
    true[1:6, 1:5] = 255
    pred = true.copy()
    true[2:5, 8:10] = 153
    unknown = np.ones(true.shape, bool)
    assert connectivity_error(pred, true, unknown) == pytest.approx(6 * 0.6 / 1000)
    assert sum_of_absolute_differences(pred, true, unknown) == pytest.approx(6 * 0.6 / 1000)
    # Detached in both: no difference.
    assert connectivity_error(true, true, unknown) == 0


def test_a_diagonal_is_no_connection():
    true = np.zeros((6, 6), np.uint8)
    true[0:3, 0:3] = 255
    true[3, 3] = 255
    pred = true.copy()
    pred[3, 3] = 0
    assert connectivity_error(pred, true, np.ones(true.shape, bool)) == pytest.approx(1 / 1000)


@pytest.mark.parametrize(
    ("alpha", "level"),
    [(76, 0.2), (77, 0.3), (152, 0.5), (153, 0.6), (178, 0.6), (179, 0.7), (254, 0.9), (255, 1.0)],
)
def test_thresholds_are_whole_numbers(alpha, level):
    """153/255 is 0.6 and reaches it, 152/255 does not; so do 0.3 (76.5) and 0.7 (178.5).

    A connected region of two values: its alpha in the prediction, opaque in the ground truth. It
    leaves at the first threshold above alpha, so l is the last below, and phi(p) = 1 as alpha - l
    is less than 0.1, while phi(t) = l if 1 - l is at least 0.15.
    """
    true = np.full((4, 4), 255, np.uint8)
    pred = np.full((4, 4), alpha, np.uint8)
    # One opaque pixel in both keeps the thresholds from being left out.
    pred[0, 0] = 255
    unknown = np.ones((4, 4), bool)
    expected = 15 * (1 - level) if 1 - level >= 0.15 else 0
    assert connectivity_error(pred, true, unknown) == pytest.approx(expected / 1000)


def test_thresholds_that_no_pixel_reaches():
    """The prediction nowhere reaches 0.6: nothing leaves there, l = 1, d < 0, both phi are 1."""
    true = np.full((4, 4), 255, np.uint8)
    pred = np.full((4, 4), 140, np.uint8)
    assert connectivity_error(pred, true, np.ones((4, 4), bool)) == 0


def test_the_first_of_equal_components_by_columns():
    """Two components of 3 pixels. By columns the left one is first, by rows the right one.

    The right one leaves at 0.1: d = 1 in the ground truth and 0.5 in the prediction.
    """
    true = np.zeros((6, 6), np.uint8)
    true[3:6, 0] = 255
    true[0:3, 5] = 255
    pred = true.copy()
    pred[0:3, 5] = 127
    unknown = np.zeros(true.shape, bool)
    unknown[:, 5] = True
    expected = 3 * (1 - 127 / 255) / 1000
    assert connectivity_error(pred, true, unknown) == pytest.approx(expected)


def sample(name: str, pred=None, true=None, trimap=None) -> dict:
    """As mmengine hands the model's predictions to a metric."""
    fields = dict(pred_alpha=pred, gt_alpha=true, trimap=trimap)
    made = SegDataSample(metainfo=dict(img_path=f"images/{name}.jpg"))
    for field, value in fields.items():
        if value is not None:
            made.set_data({field: PixelData(data=torch.from_numpy(value)[None])})
    return made.to_dict()


def test_metric_is_the_mean_over_images(monkeypatch):
    lines = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, "handle", lambda record: lines.append(record.getMessage()))
    metric = MattingMetric()
    inputs = [blobs(0, (24, 31)), blobs(1, (17, 5)), blobs(2, (9, 9))]
    for number, maps in enumerate(inputs):
        metric.process({}, [sample(str(number), *maps)])
    scores = metric.evaluate(size=3)
    assert list(scores) == ["SAD", "MSE", "Grad", "Conn"]
    for name, (_, function) in PAIRS.items():
        expected = np.mean([function(*maps) for maps in inputs])
        assert scores[name] == pytest.approx(expected), name
    assert any("over 3 images" in line for line in lines)


def test_nothing_but_numbers_is_kept():
    metric = MattingMetric()
    metric.process({}, [sample("0", *blobs(0, (24, 31)))])
    ((path, kept),) = metric.results
    assert path == "images/0.jpg"
    assert {type(value) for value in kept.values()} == {float}


def test_written_alphas(tmp_path):
    metric = MattingMetric(output_dir=str(tmp_path / "out"), format_only=True)
    pred, _, _ = blobs(0, (24, 31))
    metric.process({}, [sample("one", pred)])
    assert metric.evaluate(size=1) == {}
    written = cv2.imread(str(tmp_path / "out/one.png"), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint8
    assert np.array_equal(written, pred)


def test_two_images_of_one_name(tmp_path):
    metric = MattingMetric(output_dir=str(tmp_path), format_only=True)
    pred, _, _ = blobs(0, (5, 5))
    metric.process({}, [sample("one", pred), sample("one", pred)])  # a distributed sampler repeats
    with pytest.raises(InvalidValue, match=r"one\.png would hold .*images/one\.jpg and images/a/"):
        metric.process({}, [sample("a/one", pred)])


def test_two_images_of_one_name_in_two_processes(tmp_path):
    metric = MattingMetric(output_dir=str(tmp_path), format_only=True)
    gathered = [("a/one.jpg", None), ("a/two.jpg", None), ("b/one.jpg", None)]
    with pytest.raises(InvalidValue, match=r"one\.png would hold .*a/one\.jpg and b/one\.jpg"):
        metric.compute_metrics(gathered)
    assert metric.compute_metrics(gathered[:2]) == {}


def test_an_alpha_that_cannot_be_written_leaves_the_earlier_one(tmp_path, monkeypatch):
    metric = MattingMetric(output_dir=str(tmp_path), format_only=True)
    (tmp_path / "one.png").write_bytes(b"earlier")

    def fail(path, content):
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        metric.process({}, [sample("one", blobs(0, (5, 5))[0])])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"one.png": b"earlier"}


def test_an_alpha_that_cannot_be_encoded(tmp_path):
    metric = MattingMetric(output_dir=str(tmp_path), format_only=True)
    with pytest.raises(UserError, match=r"one\.png: an array .* cannot be encoded as PNG"):
        metric.process({}, [sample("one", np.zeros((1, 2**20 + 1), np.uint8))])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "says"),
    [("pred_alpha", "predicts none"), ("gt_alpha", "LoadAlpha"), ("trimap", "LoadTrimap")],
)
def test_missing_fields(missing, says):
    made = sample("one", *blobs(0, (5, 5)))
    del made[missing]
    with pytest.raises(InvalidValue, match=f"images/one.jpg comes without {missing}.*{says}"):
        MattingMetric().process({}, [made])


def test_predictions_of_another_type():
    pred, true, trimap = blobs(0, (5, 5))
    with pytest.raises(InvalidType, match="pred_alpha must be uint8"):
        MattingMetric().process({}, [sample("one", pred.astype(np.float32), true, trimap)])


def test_no_unknown_pixel():
    pred, true, _ = blobs(0, (5, 5))
    with pytest.raises(InvalidValue, match=r"images/one\.jpg has no unknown pixel \(128\)"):
        MattingMetric().process({}, [sample("one", pred, true, np.zeros((5, 5), np.uint8))])


def test_an_evaluation_after_one_that_failed(tmp_path):
    metric = MattingMetric(output_dir=str(tmp_path))
    metric.process({}, [sample("a/one", *blobs(0, (5, 5)))])
    metric.results.append(("images/b/one.jpg", None))  # of another process
    with pytest.raises(InvalidValue, match="would hold the alphas of both"):
        metric.evaluate(size=2)
    maps = blobs(1, (9, 9))
    metric.process({}, [sample("b/one", *maps)])
    assert metric.evaluate(size=1)["SAD"] == pytest.approx(reference.sad(*maps))


def test_format_only_needs_a_directory():
    with pytest.raises(InvalidValue, match="needs output_dir"):
        MattingMetric(format_only=True)
