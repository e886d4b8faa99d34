"""Errors of depth: mmseg's numbers of each image, closed forms, and what mmseg lets pass."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import cv2
import numpy as np
import torch
from mmengine.logging import MMLogger
from mmseg.evaluation import DepthMetric

from mmdysample.errors import InvalidType, InvalidValue
from mmdysample.mmseg.depth import DepthErrorMetric, nyu
from mmdysample.mmseg.depth.metric import NAMES, depth_errors


def sample(pred, truth=None, path: str = "data/a_1.jpg") -> dict:
    fields = dict(img_path=path, pred_depth_map=dict(data=torch.as_tensor(pred)[None]))
    if truth is not None:
        fields["gt_depth_map"] = dict(data=torch.as_tensor(truth)[None])
    return fields


def depths(size: tuple[int, int] = (12, 16)) -> tuple[torch.Tensor, torch.Tensor]:
    """Predicted and true depth of an image; a quarter of the truth is not known."""
    truth = torch.rand(size) * 9 + 0.5
    pred = truth * (torch.rand(size) * 0.8 + 0.6)
    truth[torch.rand(size) < 0.25] = 0
    return pred, truth


def evaluate(metric, samples: list[dict]) -> dict[str, float]:
    metric.process({}, samples)
    return metric.evaluate(len(samples))


@pytest.mark.parametrize("crop", [None, "nyu_crop"])
def test_mmsegs_own_numbers(crop):
    """Both on images of 480x640, where the crops are the same pixels; mmseg computes in single."""
    settings = dict(min_depth_eval=1e-3, max_depth_eval=10.0, crop_type=crop)
    samples = []
    for number in range(3):
        pred, truth = depths((480, 640))
        pred.clamp_(1e-3, 10)
        samples.append(sample(pred, truth, f"{number}.jpg"))
    expected = evaluate(DepthMetric(**settings), samples)
    actual = evaluate(DepthErrorMetric(**settings), samples)
    assert list(actual) == list(expected) == list(NAMES)
    for name in NAMES:
        assert actual[name] == pytest.approx(expected[name], rel=1e-5), name


def test_a_mean_of_images_and_not_of_pixels():
    """Small images have less pixels and the same weight; by mmseg's function of one image."""
    sizes = ((4, 5), (12, 16), (7, 9))
    pairs = [depths(size) for size in sizes]
    actual = evaluate(DepthErrorMetric(), [sample(*pair) for pair in pairs])
    each = [
        DepthMetric._calc_all_metrics(truth[truth > 0], pred[truth > 0].clamp(1e-3, 10))
        for pred, truth in pairs
    ]
    for name in NAMES:
        assert actual[name] == pytest.approx(sum(one[name] for one in each) / 3, rel=1e-5), name


def test_closed_forms():
    """A tenth too far everywhere: abs_rel .1, and all logarithms are off by log 1.1."""
    truth = torch.rand(6, 7, dtype=torch.float64) * 5 + 1
    found = dict(zip(NAMES, depth_errors(1.1 * truth.flatten(), truth.flatten()), strict=True))
    expected = dict(
        d1=1, d2=1, d3=1, abs_rel=0.1, rmse_log=math.log(1.1), log10=math.log10(1.1)
    ) | dict(
        silog=math.log(1.1) / math.sqrt(2),
        sq_rel=0.01 * truth.mean().item(),
        rmse=0.1 * truth.square().mean().sqrt().item(),
    )
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-9), name
    # 1.3 is beyond 1.25; 1.5 is below 1.25^2 = 1.5625, and 1.6 above
    ratios = torch.tensor([1.0, 1.2, 1 / 1.2, 1.3, 1 / 1.5, 1.6, 1.9, 2.0])
    d1, d2, d3 = depth_errors(ratios, torch.ones(8))[:3].tolist()
    assert (d1, d2, d3) == (3 / 8, 5 / 8, 7 / 8)


def test_predictions_are_clamped():
    """mmseg: the mean of the data set is NaN or infinite."""
    truth = torch.full((2, 3), 2.0)
    pred = torch.tensor([[0.0, -1.0, float("nan")], [float("inf"), float("-inf"), 50.0]])
    metric = DepthErrorMetric(min_depth_eval=0.5, max_depth_eval=8.0)
    clamped = torch.tensor([[0.5, 0.5, 0.5], [8.0, 0.5, 8.0]])
    expected = DepthMetric._calc_all_metrics(truth.flatten(), clamped.flatten())
    actual = evaluate(metric, [sample(pred, truth)])
    for name in NAMES:
        assert actual[name] == pytest.approx(expected[name], rel=1e-6), name
    upstream = evaluate(DepthMetric(min_depth_eval=0.5, max_depth_eval=8.0), [sample(pred, truth)])
    assert not math.isfinite(upstream["rmse_log"])


@pytest.mark.parametrize(
    ("size", "pixels"),
    [
        ((480, 640), (45, 471, 41, 601)),
        ((240, 320), (23, 236, 21, 301)),  # halves are rounded up
        ((96, 128), (9, 94, 8, 120)),
        ((160, 160), (15, 157, 10, 150)),
        ((1, 1), (0, 1, 0, 1)),
    ],
)
def test_the_crop_is_relative_to_the_image(size, pixels):
    rows, columns = nyu.part_of(size, nyu.EVALUATED)
    assert (rows.start, rows.stop, columns.start, columns.stop) == pixels
    truth = torch.full(size, 2.0)
    pred = torch.full(size, 9.0)
    pred[rows, columns] = 2.0
    assert evaluate(DepthErrorMetric(crop_type="nyu_crop"), [sample(pred, truth)])["rmse"] == 0
    if size != (1, 1):
        assert evaluate(DepthErrorMetric(), [sample(pred, truth)])["rmse"] > 0


def test_valid_depth_lies_between_the_limits():
    truth = torch.tensor([[0.0, 0.5, 0.6], [7.9, 8.0, float("inf")]])
    pred = torch.where((truth > 0.5) & (truth < 8), truth, 3.0)
    metric = DepthErrorMetric(min_depth_eval=0.5, max_depth_eval=8.0)
    assert evaluate(metric, [sample(pred, truth)])["abs_rel"] == 0


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What mmengine's logger is told, at any level."""
    lines = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(
        logger, "handle", lambda record: lines.append((record.levelname, record.getMessage()))
    )
    return lines


def test_images_without_valid_depth_are_left_out_and_counted(said):
    pred, truth = depths()
    samples = [sample(pred, truth), sample(pred, 0 * truth, "x/b.jpg"), sample(pred, 0 * truth)]
    metric = DepthErrorMetric()
    actual = evaluate(metric, samples)
    assert actual == evaluate(DepthErrorMetric(), samples[:1])
    (warning,) = [text for level, text in said if level == "WARNING" and "depth" in text]
    assert warning.startswith("2 of 3 images have no true depth between 0.001 m and 10.0 m")
    assert warning.endswith("the first is data/a_1.jpg")
    with pytest.raises(InvalidValue, match=r"none of the 2 images .*depth_rescale_factor.* 1e-3"):
        evaluate(DepthErrorMetric(crop_type="nyu_crop"), samples[1:])


def test_only_small_numbers_are_kept():
    """mmseg keeps every pixel of every image on the model's device."""
    pred, truth = depths((480, 640))
    metric = DepthErrorMetric()
    metric.process({}, [sample(pred, truth)])
    ((path, errors),) = metric.results
    assert path == "data/a_1.jpg" and len(errors) == 9
    assert all(type(error) is float for error in errors)


def test_some_of_the_metrics():
    metric = DepthErrorMetric(depth_metrics=["rmse", "d1"])
    pred, truth = depths()
    actual = evaluate(metric, [sample(pred, truth)])
    assert list(actual) == ["rmse", "d1"]
    every = evaluate(DepthErrorMetric(prefix="depth"), [sample(pred, truth)])
    assert actual == {name: every[f"depth/{name}"] for name in ("rmse", "d1")}
    with pytest.raises(TypeError):  # upstream's, whatever the list
        DepthMetric(depth_metrics=["rmse"])


def test_files_of_16_bits_in_millimeters(tmp_path):
    pred = torch.tensor([[0.9996, 1.0004, 2.3456], [-1.0, 99.0, float("nan")]])
    metric = DepthErrorMetric(output_dir=str(tmp_path / "out"))
    metric.process({}, [sample(pred, torch.ones(2, 3), "x/kitchen_00045.jpg")])
    written = cv2.imread(str(tmp_path / "out" / "kitchen_00045.png"), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint16
    assert written.tolist() == [[1000, 1000, 2346], [1, 10000, 1]]


def test_files_alone(tmp_path):
    metric = DepthErrorMetric(output_dir=str(tmp_path), format_only=True)
    assert evaluate(metric, [sample(torch.ones(2, 3))]) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["a_1.png"]


def test_two_images_of_one_name_are_not_written_over_each_other(tmp_path):
    samples = [sample(torch.ones(2, 3), path=f"{scene}/rgb_1.jpg") for scene in ("a", "b")]
    says = r"depth maps of a/rgb_1.jpg and b/rgb_1.jpg would both be written to rgb_1.png"
    metric = DepthErrorMetric(output_dir=str(tmp_path), format_only=True)
    with pytest.raises(InvalidValue, match=says):
        metric.process({}, samples)
    metric.process({}, samples[:1])  # a sampler gives an image twice to fill the last batch
    with pytest.raises(InvalidValue, match=says):  # that two processes have predicted
        metric.compute_metrics([(each["img_path"], None) for each in samples])


def test_a_file_that_cannot_be_written(tmp_path):
    metric = DepthErrorMetric(output_dir=str(tmp_path / "out"))
    (tmp_path / "out").rmdir()
    with pytest.raises(OSError, match=r"out/a_1.png could not be written"):
        metric.process({}, [sample(torch.ones(2, 3), torch.ones(2, 3))])


def test_samples_that_cannot_be_compared():
    metric = DepthErrorMetric()
    pred, truth = depths()
    with pytest.raises(InvalidValue, match=r"a_1.jpg comes without its true depth: .*LoadDepthAnn"):
        metric.process({}, [sample(pred)])
    with pytest.raises(InvalidValue, match=r"is 12x16 \(height x width\), the true depth 12x15"):
        metric.process({}, [sample(pred, truth[:, :15])])
    labels = dict(img_path="a.jpg", pred_sem_seg=dict(data=pred))
    with pytest.raises(InvalidValue, match=r"of a.jpg this one predicts pred_sem_seg"):
        metric.process({}, [labels])


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        (dict(depth_metrics=["a1"]), InvalidValue, r"some of d1, d2, .*, got 'a1'"),
        (dict(depth_metrics=[]), InvalidValue, r"some of d1"),
        (dict(depth_metrics="d1"), InvalidType, r"a list of names, got 'd1'"),
        (dict(min_depth_eval=0), InvalidValue, r"min_depth_eval of .* above 0, got 0"),
        (dict(max_depth_eval=math.inf), InvalidValue, r"max_depth_eval of .* finite"),
        (
            dict(max_depth_eval="10"),
            InvalidType,
            r"max_depth_eval of .* a finite number above 0, got '10'",
        ),
        (dict(min_depth_eval=10), InvalidValue, r"must be below max_depth_eval=10"),
        (dict(crop_type="kitti"), InvalidValue, r"None or 'nyu_crop', got 'kitti'"),
        (dict(format_only=True), InvalidValue, r"needs output_dir"),
        (dict(max_depth_eval=80, output_dir="x"), InvalidValue, r"does not fit into 16 bits"),
        (dict(depth_scale_factor=-1), InvalidValue, r"depth_scale_factor of"),
    ],
    ids=str,
)
def test_settings_that_are_refused(settings, error, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says):
        DepthErrorMetric(**settings)
    assert not list(Path().iterdir())
