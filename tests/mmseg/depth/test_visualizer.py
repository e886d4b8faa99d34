"""Drawings of depth: which pixel has which color."""

from __future__ import annotations

import pytest

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import cv2
import numpy as np
import torch
from matplotlib import colormaps
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmdysample.mmseg.depth import DepthLocalVisualizer
from mmdysample.mmseg.depth.visualizer import (
    UNKNOWN,
    color_depth,
    draw_depths,
    draw_scale,
    round_numbers,
)
from tests.panels import count, panel


def magma(position: float) -> np.ndarray:
    """matplotlib's colors from far, 0, to near, 1."""
    return 255 * np.array(colormaps["magma"](float(position))[:3])


def test_near_is_bright_and_the_unknown_gray():
    depth = np.array([[2.0, 4.0, 3.0], [1.0, 9.0, 0.0], [np.nan, np.inf, -1.0]])
    colors = color_depth(depth, 2.0, 4.0)
    for (row, column), position in {
        (0, 0): 1,
        (0, 1): 0,
        (0, 2): 0.5,
        (1, 0): 1,
        (1, 1): 0,
    }.items():
        assert abs(colors[row, column] - magma(position)).max() < 4
    for row, column in ((1, 2), (2, 0), (2, 1), (2, 2)):
        assert tuple(colors[row, column]) == UNKNOWN


def test_the_scale_runs_from_far_at_the_top_to_near():
    scale = draw_scale(200, 1.0, 5.0)
    assert scale.shape[0] == 200 and scale.shape[1] < 60
    for row, position in ((0, 0), (199, 1), (100, 0.5)):
        assert abs(scale[row, 5] - magma(position)).max() < 6
    for row, meters in zip((0, 50, 100, 149, 199), (5, 4, 3, 2, 1), strict=True):
        assert not scale[row, 11].any(), meters  # a tick
    dark = (scale[:, 16:].min(axis=2) < 100).any(axis=1)
    assert dark[:12].any() and not dark[14:40].any() and dark[-12:].any()  # numbers


def test_a_number_is_beside_its_color():
    scale = draw_scale(200, 1.5, 5.0)
    ticks = [row for row in range(200) if not scale[row, 11].any()]
    assert ticks == [round((5 - meters) / 3.5 * 199) for meters in (5, 4, 3, 2)]


@pytest.mark.parametrize(
    ("low", "high", "most", "texts"),
    [
        (5.45, 10.0, 6, "6 7 8 9 10"),
        (0.7, 10.0, 6, "2 4 6 8 10"),
        (0.3, 1.1, 5, "0.4 0.6 0.8 1.0"),
        (1.0, 5.0, 6, "1 2 3 4 5"),
        (12.0, 95.0, 6, "20 40 60 80"),
        (0.0, 1.0, 2, "0.0 0.5 1.0"),
        (2.5, 2.5025, 3, "2.500 2.501 2.502"),
    ],
)
def test_numbers_beside_the_scale_are_round(low, high, most, texts):
    found = round_numbers(low, high, most)
    assert " ".join(text for _, text in found) == texts
    assert [value for value, _ in found] == pytest.approx([float(text) for text in texts.split()])
    assert all(low <= value <= high for value, _ in found)


def test_one_scale_for_both_depths():
    image = np.zeros((8, 10, 3), np.uint8)
    truth, pred = np.full((8, 10), 2.0), np.full((8, 10), 3.0)
    truth[0, 0], truth[0, 1] = 4.0, 0.0
    drawn = draw_depths(image, dict(true=truth, predicted=pred))
    left, middle, right = (panel(drawn, number, 8, 10) for number in range(3))
    assert 3 < count(drawn, 8, 10) < 3.5  # the scale is narrower
    assert not left.any()
    assert tuple(middle[0, 1]) == UNKNOWN
    assert abs(middle[0, 0] - magma(0)).max() < 4 and abs(middle[4, 2] - magma(1)).max() < 4
    assert abs(right[4, 5] - magma(0.5)).max() < 4


@pytest.mark.parametrize("depth", [0.0, np.nan, 2.5])
@pytest.mark.parametrize("height", [1, 7, 600])
def test_maps_of_one_depth_or_none(depth, height):
    maps = dict(depth=np.full((height, 4), depth))
    drawn = draw_depths(np.zeros((height, 4, 3), np.uint8), maps)
    assert drawn.shape[0] > max(height, 120)


def test_a_map_of_another_size():
    drawn = draw_depths(np.zeros((8, 10, 3), np.uint8), dict(a=np.array([[1.0, 2.0]])))
    depth = panel(drawn, 1, 8, 10)
    assert abs(depth[0, 0] - magma(1)).max() < 4 and abs(depth[7, 9] - magma(0)).max() < 4


def sample() -> SegDataSample:
    fields = dict(
        pred_depth_map=PixelData(data=torch.full((1, 20, 30), 2.0)),
        gt_depth_map=PixelData(data=torch.linspace(1, 3, 600).view(1, 20, 30)),
    )
    data_sample = SegDataSample()
    data_sample.set_data(fields)
    return data_sample


def test_what_is_drawn(tmp_path):
    visualizer = DepthLocalVisualizer()
    image = np.full((20, 30, 3), (200, 10, 10), np.uint8)
    for gt, pred, maps in ((True, True, 2), (False, True, 1), (True, False, 1)):
        file = tmp_path / f"{gt}{pred}.png"
        visualizer.add_datasample(
            "a", image, sample(), draw_gt=gt, draw_pred=pred, out_file=str(file)
        )
        drawn = cv2.imread(str(file))[..., ::-1]
        assert 1 + maps < count(drawn, 20, 30) < 1.4 + maps
        assert (panel(drawn, 0, 20, 30) == (200, 10, 10)).all()
        assert visualizer.get_image().shape == drawn.shape  # rendered by matplotlib


def test_segmentation_is_drawn_as_mmseg_does(tmp_path):
    visualizer = DepthLocalVisualizer()
    visualizer.dataset_meta = dict(classes=("a", "b"), palette=[[1, 2, 3], [250, 0, 0]])
    data_sample = SegDataSample(pred_sem_seg=PixelData(data=torch.ones(1, 20, 30).long()))
    visualizer.add_datasample(
        "a", np.zeros((20, 30, 3), np.uint8), data_sample, out_file=str(tmp_path / "a.png")
    )
    assert cv2.imread(str(tmp_path / "a.png")).shape == (20, 30, 3)
