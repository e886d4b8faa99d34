"""Transforms of depth, and upstream's that the data sets' pipelines put them together with."""

from __future__ import annotations

import pytest

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import numpy as np
from mmengine.config import Config
from mmseg.datasets.transforms import RandomRotate

from mmdysample.errors import InvalidType, InvalidValue
from mmdysample.mmseg.depth import DepthColorAug, NYUCrop
from tests.engine.zygote import ROOT


def sample(height: int, width: int) -> dict:
    """The image's channels and the depth hold the row, the column and both."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows % 256, columns % 256, rows // 256 * 16 + columns // 256], axis=2)
    depth = (rows * 1000 + columns).astype(np.float32)
    return dict(img=image.astype(np.uint8), gt_depth_map=depth, seg_fields=["gt_depth_map"])


def test_the_crop_of_nyu():
    given = sample(480, 640)
    image, depth = given["img"].copy(), given["gt_depth_map"].copy()
    results = NYUCrop()(given)
    assert results["img"].shape == (427, 565, 3) and results["img_shape"] == (427, 565)
    assert np.array_equal(results["img"], image[45:472, 43:608])
    assert np.array_equal(results["gt_depth_map"], depth[45:472, 43:608])
    assert results["gt_depth_map"][0, 0] == 45 * 1000 + 43


def test_the_crop_of_another_size():
    """The same parts of 96x128, a fifth: rows 9 to 94.4 and columns 8.6 to 121.6."""
    results = NYUCrop()(sample(96, 128))
    assert results["gt_depth_map"][0, 0] == 9 * 1000 + 9
    assert results["gt_depth_map"][-1, -1] == 93 * 1000 + 121


def test_halves_are_rounded_as_the_metric_rounds_them():
    """Of 240x320, a half: rows 22.5 to 236 and columns 21.5 to 304."""
    results = NYUCrop()(sample(240, 320))
    assert results["gt_depth_map"][0, 0] == 23 * 1000 + 22
    assert results["gt_depth_map"][-1, -1] == 235 * 1000 + 303


def by_loops(image, gamma, brightness, color, white) -> np.ndarray:
    expected = np.empty(image.shape)
    for index in np.ndindex(image.shape):
        value = (image[index] / 255 * white) ** gamma * brightness * color[index[2]]
        expected[index] = min(max(value, 0), white) / white * 255
    return expected


@pytest.mark.parametrize("white", [1, 255])
def test_colors_by_loops(white):
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    transform = DepthColorAug(prob=1.0, white=white)
    np.random.seed(3)
    assert np.random.rand() < 1
    gamma, brightness = np.random.uniform(0.9, 1.1), np.random.uniform(0.75, 1.25)
    color = np.random.uniform(0.9, 1.1, size=3)
    np.random.seed(3)
    results = transform(dict(img=image.copy()))
    assert results["img"].dtype == np.float32
    np.testing.assert_allclose(
        results["img"], by_loops(image, gamma, brightness, color, white), rtol=1e-5, atol=1e-3
    )


def test_the_two_papers_differ():
    """An exponent of 1.1 darkens a gray of half white on 0..1, and whitens it on 0..255."""
    image = np.full((2, 2, 3), 128, np.uint8)
    only_gamma = dict(prob=1.0, gamma=(1.1, 1.1), brightness=(1, 1), color=(1, 1))
    unit = DepthColorAug(**only_gamma, white=1)(dict(img=image))["img"]
    byte = DepthColorAug(**only_gamma, white=255)(dict(img=image))["img"]
    assert unit[0, 0, 0] == pytest.approx(255 * (128 / 255) ** 1.1, rel=1e-5)
    assert byte[0, 0, 0] == pytest.approx(128**1.1, rel=1e-5)


def test_the_probability():
    image = np.full((1, 1, 3), 100, np.uint8)
    assert DepthColorAug(prob=0.0)(dict(img=image))["img"] is image
    changed = sum(DepthColorAug(prob=0.5)(dict(img=image))["img"] is not image for _ in range(1000))
    assert 440 < changed < 560


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        (dict(prob=2), InvalidValue, r"prob of DepthColorAug must be a number in 0\.\.1, got 2"),
        (
            dict(gamma=0.9),
            InvalidType,
            r"gamma of DepthColorAug must be two numbers above 0, .*, got 0\.9",
        ),
        (dict(color=("a", 1)), InvalidType, r"color of"),
        (dict(brightness=(1.2, 0.8)), InvalidValue, r"the smaller first"),
        (dict(gamma=(0, 1)), InvalidValue, r"above 0"),
        (dict(color=(1, float("inf"))), InvalidValue, r"color of .* above 0.* got inf"),
        (dict(gamma="12"), InvalidType, r"gamma of .* got '12'"),
        (dict(white=0), InvalidValue, r"white of .* 1 as in BTS, 255"),
    ],
)
def test_settings_that_are_refused(settings, error, says):
    with pytest.raises(error, match=says):
        DepthColorAug(**settings)


@pytest.mark.parametrize("name", ["nyu_416x544", "nyu_416x544_bts"])
def test_no_depth_is_made_up_by_the_training_pipelines(name):
    """mmseg's RandomRotate fills depth with 255 m by default."""
    from mmengine.registry import init_default_scope
    from mmseg.registry import TRANSFORMS

    init_default_scope("mmseg")
    cfg = Config.fromfile(ROOT / "configs" / "_base_" / "datasets" / f"{name}.py")
    steps = [TRANSFORMS.build(step) for step in cfg.train_dataloader.dataset.pipeline[2:]]
    (rotate,) = (step for step in steps if isinstance(step, RandomRotate))
    assert rotate.prob == (1.0 if name.endswith("bts") else 0.5)
    rotated = 0
    for _ in range(12):
        results = sample(480, 640)
        results["gt_depth_map"][:] = 3.0
        for step in steps:
            results = step(results)
        depth = results["data_samples"].gt_depth_map.data
        assert results["inputs"].shape == (3, 416, 544) and depth.shape == (1, 416, 544)
        assert set(depth.unique().tolist()) <= {0.0, 3.0}
        rotated += bool((depth == 0).any())
    assert rotated > 1
