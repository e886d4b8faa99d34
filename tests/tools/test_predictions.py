"""tools/analysis/predictions.py: what it draws onto an image, and what it refuses.

Whole sheets are drawn in test_demo.py.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import cv2
import matplotlib.pyplot as plt
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from sheets.zoom import Window

from mmdysample.engine.errors import UserError, run_tool
from tools.analysis import predictions as tool

CONFIG = Path(__file__).parents[2] / "configs/shapes/faster-rcnn_r18_fpn_nearest_shapes.py"
SEGMENTOR = CONFIG.with_name("segformer_mit-b0_dysample_shapes.py")
RED, BLUE, NONE, BLACK = (1, 0, 0), (0, 0, 1), tool.UNLABELLED, (0, 0, 0, 1)
CLASSES = tool.Classes(("disk", "ring"), ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)))
TASKS = {task.kind: task for task in tool.TASKS}


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


@pytest.fixture
def image(tmp_path) -> str:
    path = tmp_path / "image.png"
    pixels = np.zeros((8, 10, 3), np.uint8)
    pixels[:] = (255, 51, 0)  # BGR
    cv2.imwrite(str(path), pixels)
    return str(path)


def pixel_data(values: Any, key: str = "data") -> PixelData:
    return PixelData(**{key: torch.as_tensor(np.array(values))[None]})


def segmented(image: str, **fields: Any) -> SegDataSample:
    sample = SegDataSample(metainfo=dict(img_path=image))
    for key, values in fields.items():
        setattr(sample, key, pixel_data(values))
    return sample


def paint(kind: str, truths: list, *models: list) -> list[tool.Line]:
    predictions = {f"M{number}": found for number, found in enumerate(models)}
    assert tool.task_of(predictions).kind == kind
    samples = [dict(data_samples=sample) for sample in truths]
    return tool.paint(samples, predictions, CLASSES, TASKS[kind], 0.5)


def test_labels_have_their_colours_and_ignored_pixels_none():
    labels = np.array([[0, 1], [255, 1]])
    (layer,) = tool.paint_labels(labels, CLASSES).layers
    assert np.array_equal(layer[..., :3], [[RED, BLUE], [NONE, BLUE]])
    assert (layer[..., 3] == 1).all()


def test_boxes_of_a_low_score_are_left_out(axes):
    found = InstanceData(
        bboxes=torch.tensor([[0.0, 0, 4, 2], [1, 1, 3, 9], [5, 5, 6, 6]]),
        labels=torch.tensor([0, 1, 1]),
        scores=torch.tensor([0.9, 0.6, 0.4]),
    )
    image = np.zeros((10, 12, 3), np.uint8)
    sample = SimpleNamespace(pred_instances=found)
    drawing = tool.predicted_boxes(sample, CLASSES, image, 0.5)
    tool.draw_one(axes, image, drawing, 0, None)
    drawn = [
        (p.get_xy(), p.get_width(), p.get_height(), p.get_edgecolor()[:3]) for p in axes.patches
    ]
    # the surest on top; pixel 0 reaches from -0.5 to 0.5 in a drawn image
    assert drawn == [((0.5, 0.5), 2, 8, BLUE), ((-0.5, -0.5), 4, 2, RED)]
    assert not drawing.layers[0].any()
    expected = np.zeros((10, 12))
    expected[1:9, 1:3] = 2
    expected[0:2, 0:4] = 1
    assert np.array_equal(drawing.values, expected)


@pytest.mark.parametrize("bitmap", [True, False])
def test_masks_are_drawn_over_the_image_with_outlines(bitmap):
    masks = np.zeros((2, 6, 7), bool)
    masks[0, 1:4, 1:4] = masks[1, 3:6, 3:7] = True
    found = InstanceData(
        bboxes=torch.tensor([[1.0, 1, 4, 4], [3, 3, 7, 6]]),
        labels=torch.tensor([0, 1]),
        masks=BitmapMasks(masks.astype(np.uint8), 6, 7) if bitmap else torch.as_tensor(masks),
    )
    (layer,) = tool.paint_boxes((6, 7), found, CLASSES).layers
    assert tuple(layer[2, 2]) == (*RED, 0.55)
    assert tuple(layer[4, 5]) == (*BLUE, 0.55)
    assert tuple(layer[2, 3]) == BLACK and tuple(layer[0, 1]) == BLACK
    assert not layer[0, 5].any()


def test_segments_of_one_class_are_told_apart_by_outlines(image):
    ids = np.full((8, 10), 2)  # void: a model of two classes
    ids[:4, :4], ids[:4, 4:8] = 0 + INSTANCE_OFFSET, 0 + 2 * INSTANCE_OFFSET
    found = DetDataSample(metainfo=dict(img_path=image))
    found.pred_panoptic_seg = pixel_data(ids, "sem_seg")
    found.pred_instances = InstanceData()
    truth = DetDataSample(metainfo=dict(img_path=image))
    truth.gt_sem_seg = pixel_data(np.where(ids == 2, 255, 0).astype(np.uint8), "sem_seg")
    masks = np.stack([ids == INSTANCE_OFFSET, ids == 2 * INSTANCE_OFFSET]).astype(np.uint8)
    truth.gt_instances = InstanceData(masks=BitmapMasks(masks, 8, 10))
    (line,) = paint("segments", [truth], [found])
    assert np.array_equal(line.models[0].layers[0], line.truth.layers[0])
    layer = line.truth.layers[0]
    assert tuple(layer[1, 1]) == (*RED, 0.75) and tuple(layer[6, 6]) == (*NONE, 1)
    black = {(r, c) for r, c in np.argwhere((layer == BLACK).all(axis=2)) if ids[r, c] != 2}
    assert black == {(r, c) for r in range(4) for c in range(8) if r == 3 or c in (3, 7)}


def test_depth_has_one_scale_for_the_whole_sheet(image):
    truth = np.full((8, 10), 3.0, np.float32)
    truth[0, 0], truth[1, 1] = 0, 0.5  # not known; the nearest
    near = segmented(image, gt_depth_map=truth, pred_depth_map=np.full((8, 10), 2.0))
    far = segmented(image, pred_depth_map=np.full((8, 10), 9.0))
    lines = paint("depth", [near, far], [near, far])
    assert lines[1].truth is None
    assert tool.depth_scale(lines) == (0.5, 9.0)
    figure = tool.draw(lines, ["M"], CLASSES, TASKS["depth"])
    cells = figure.axes[:6]
    assert [axes.get_title() for axes in cells[:3]] == ["image", "ground truth", "M"]
    assert not cells[4].axison  # no truth
    drawn = [axes.get_images() for axes in cells]
    assert [len(images) for images in drawn] == [1, 1, 1, 1, 0, 1]
    for (shown,) in (drawn[1], drawn[2], drawn[5]):
        assert shown.get_clim() == (0.5, 9.0) and shown.get_cmap().name == tool.DEPTH_COLORS
    shown = drawn[1][0].get_array()
    assert shown.mask[0, 0] and shown.mask.sum() == 1 and shown[1, 1] == 0.5
    assert "meters" in figure.axes[6].get_xlabel() and not figure.legends
    plt.close(figure)


def test_mattes_are_drawn_in_gray_and_composed_over_a_plain_color(image):
    alpha = np.zeros((8, 10), np.uint8)
    alpha[:, 5:], alpha[0, 0] = 255, 51
    trimap = np.full((8, 10), 128, np.uint8)
    sample = segmented(image, gt_alpha=alpha, pred_alpha=255 - alpha, trimap=trimap)
    (line,) = paint("mattes", [sample], [sample])
    gray, composed = line.truth.layers
    assert np.allclose(gray[0, 0], (0.2, 0.2, 0.2, 1))
    foreground = np.array((0, 0.2, 1))
    assert np.allclose(composed[3, 7, :3], foreground)
    assert np.allclose(composed[3, 3, :3], tool.PLAIN)
    assert np.allclose(composed[0, 0, :3], 0.2 * foreground + 0.8 * np.array(tool.PLAIN))
    assert np.allclose(line.models[0].layers[1][3, 3, :3], foreground)
    figure = tool.draw([line], ["M"], tool.Classes((), ()), TASKS["mattes"])
    assert len(figure.axes) == 2 * 3
    assert (figure.axes[3].get_images()[0].get_array() == trimap).all()
    plt.close(figure)


def test_a_sheet_has_a_row_an_image_and_a_column_a_model(image):
    sample = segmented(
        image,
        gt_sem_seg=np.zeros((8, 10), np.int64),
        pred_sem_seg=np.ones((8, 10), np.int64),
    )
    lines = paint("label maps", [sample] * 2, [sample] * 2, [sample] * 2)
    figure = tool.draw(lines, ["One", "Two"], CLASSES, TASKS["label maps"])
    assert len(figure.axes) == 2 * 4
    assert [axes.get_title() for axes in figure.axes[:4]] == ["image", "ground truth", "One", "Two"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["disk", "ring"]
    shown = [tuple(np.asarray(axes.get_images()[-1].get_array())[0, 0]) for axes in figure.axes[4:]]
    assert shown == [(0, 51, 255), (*RED, 1), (*BLUE, 1), (*BLUE, 1)]
    plt.close(figure)


def test_without_ground_truth_there_is_no_column_for_it(image):
    found = segmented(image, pred_sem_seg=np.zeros((8, 10), np.int64))
    lines = paint("label maps", [segmented(image)], [found])
    figure = tool.draw(lines, ["One"], CLASSES, TASKS["label maps"])
    assert [axes.get_title() for axes in figure.axes] == ["image", "One"]
    plt.close(figure)


def test_the_zoom_is_where_the_models_differ_most(image):
    one, two = np.zeros((8, 10), np.int64), np.zeros((8, 10), np.int64)
    two[6:8, 8:10] = 1
    truth = np.ones((8, 10), np.int64)
    found = [[segmented(image, pred_sem_seg=values)] for values in (one, two)]
    (line,) = paint("label maps", [segmented(image, gt_sem_seg=truth)], *found)
    assert np.array_equal(tool.disagreement(line), two)
    alone = line._replace(models=line.models[1:])
    assert np.array_equal(tool.disagreement(alone), 1 - two)
    figure = tool.draw([line], ["One", "Two"], CLASSES, TASKS["label maps"], zoom=4)
    assert len(figure.axes) == 2 * 4
    for axes in figure.axes[4:]:
        assert axes.get_xlim() == pytest.approx((7.0, 9.5))
        assert axes.get_ylim() == pytest.approx((7.5, 5.5))
    plt.close(figure)


def test_what_is_continuous_differs_by_how_far_it_is_apart(image):
    near, far = np.full((8, 10), 2.0), np.full((8, 10), 2.0)
    far[2, 3], far[4, 4] = 2.5, 0  # the last is not known
    found = [[segmented(image, pred_depth_map=values)] for values in (near, far)]
    (line,) = paint("depth", [segmented(image)], *found)
    expected = np.zeros((8, 10))
    expected[2, 3] = 0.5
    assert np.array_equal(tool.disagreement(line), expected)
    figure = tool.draw([line], ["One", "Two"], CLASSES, TASKS["depth"], zoom=2)
    assert Window(0, 0, 0.5).side == 0.5 and len(figure.axes) == 2 * 3 + 1
    plt.close(figure)


def test_models_of_different_tasks_do_not_share_a_sheet(image):
    depth = segmented(image, pred_depth_map=np.ones((8, 10)))
    labels = segmented(image, pred_sem_seg=np.ones((8, 10), np.int64))
    with pytest.raises(UserError, match="one kind of prediction, but of these is A depth, B label"):
        tool.task_of(dict(A=[depth], B=[labels]))
    with pytest.raises(UserError, match="--model A predicts none of what is drawn here: segments"):
        tool.task_of(dict(A=[segmented(image)]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--out", "a.png"], "--model"),
        (["--out", "a.png", "--images", "0", "--model", "N", CONFIG, "x.pth"], "--images"),
        (["--out", "a.png", "--zoom", "1", "--model", "N", CONFIG, "x.pth"], "--zoom must be 0"),
        (["--out", "a.txt", "--model", "N", CONFIG, "x.pth"], "must end in one of"),
        (["--out", "a.png", "--model", "N", "none.py", "x.pth"], "none.py does not exist"),
        (
            ["--out", "a.png", "--data-root", "nowhere/", "--model", "N", CONFIG, "x.pth"],
            "nowhere/",
        ),
        (["--out", "a.png", *["--model", "N", CONFIG, "x.pth"] * 2], "the same NAME"),
        (
            ["--out", "a.png", "--model", "N", CONFIG, "x", "--model", "M", SEGMENTOR, "x"],
            "detectors or segmentors, not both",
        ),
    ],
)
def test_a_wrong_argument_is_one_sentence(monkeypatch, capsys, tmp_path, options, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["predictions.py", *map(str, options)])
    try:
        status = run_tool(tool.main)
    except SystemExit as end:
        status = end.code
    stderr = capsys.readouterr().err
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert status == 2
    assert len(errors) == 1 and expected in errors[0]
    assert not list(tmp_path.iterdir())


def test_an_image_is_not_drawn_over(monkeypatch, capsys, tmp_path):
    image = tmp_path / "000.jpg"
    image.write_bytes(b"a user's")
    model = ["--model", "N", str(CONFIG), "x.pth"]
    monkeypatch.setattr("sys.argv", ["predictions.py", "--out", str(image), *model])
    assert run_tool(tool.main) == 2
    assert f"error: --out {image} exists already" in capsys.readouterr().err
    assert image.read_bytes() == b"a user's"
