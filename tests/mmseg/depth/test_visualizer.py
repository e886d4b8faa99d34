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
    SCALE_WIDTH,
    UNKNOWN,
    color_depth,
    draw_depths,
    draw_scale,
)


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
    assert scale.shape == (200, SCALE_WIDTH, 3)
    for row, position in ((0, 0), (199, 1), (100, 0.5)):
        assert abs(scale[row, 8] - magma(position)).max() < 6
    dark = (scale[:, 20:].min(axis=2) < 100).any(axis=1)
    assert dark[:15].any() and dark[-15:].any()  # numbers at both ends


def test_one_scale_for_both_depths():
    image = np.zeros((8, 10, 3), np.uint8)
    truth, pred = np.full((8, 10), 2.0), np.full((8, 10), 3.0)
    truth[0, 0], truth[0, 1] = 4.0, 0.0
    drawn = draw_depths(image, [truth, pred])
    assert drawn.shape == (8, 30 + SCALE_WIDTH, 3)
    assert not drawn[:, :10].any()
    assert tuple(drawn[0, 11]) == UNKNOWN
    assert abs(drawn[0, 10] - magma(0)).max() < 4 and abs(drawn[4, 12] - magma(1)).max() < 4
    assert abs(drawn[4, 25] - magma(0.5)).max() < 4


@pytest.mark.parametrize("depth", [0.0, np.nan, 2.5])
@pytest.mark.parametrize("height", [1, 7, 600])
def test_maps_of_one_depth_or_none(depth, height):
    drawn = draw_depths(np.zeros((height, 4, 3), np.uint8), [np.full((height, 4), depth)])
    assert drawn.shape == (height, 8 + SCALE_WIDTH, 3)


def test_a_map_of_another_size():
    drawn = draw_depths(np.zeros((8, 10, 3), np.uint8), [np.array([[1.0, 2.0]])])
    assert abs(drawn[0, 10] - magma(1)).max() < 4 and abs(drawn[7, 19] - magma(0)).max() < 4


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
        assert drawn.shape == (20, 30 * (1 + maps) + SCALE_WIDTH, 3)
        assert tuple(drawn[5, 5]) == (200, 10, 10)
        assert visualizer.get_image().shape == drawn.shape  # rendered by matplotlib


def test_segmentation_is_drawn_as_mmseg_does(tmp_path):
    visualizer = DepthLocalVisualizer()
    visualizer.dataset_meta = dict(classes=("a", "b"), palette=[[1, 2, 3], [250, 0, 0]])
    data_sample = SegDataSample(pred_sem_seg=PixelData(data=torch.ones(1, 20, 30).long()))
    visualizer.add_datasample(
        "a", np.zeros((20, 30, 3), np.uint8), data_sample, out_file=str(tmp_path / "a.png")
    )
    assert cv2.imread(str(tmp_path / "a.png")).shape == (20, 30, 3)
