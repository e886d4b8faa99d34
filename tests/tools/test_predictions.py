"""tools/analysis/predictions.py: what it draws onto an image, and what it refuses.

Whole sheets are drawn in test_demo.py.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import cv2
import matplotlib.pyplot as plt
from mmengine.structures import InstanceData, PixelData

from mmdysample.engine.errors import UserError, run_tool
from tools.analysis import predictions as tool

CONFIG = Path(__file__).parents[2] / "configs/shapes/faster-rcnn_r18_fpn_nearest_shapes.py"
SEGMENTOR = CONFIG.with_name("segformer_mit-b0_dysample_shapes.py")
CLASSES = tool.Classes(("disk", "ring"), ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)))


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def test_labels_have_their_colours_and_ignored_pixels_none(axes):
    labels = torch.tensor([[[0, 1], [255, 1]]])
    tool.draw_true_labels(axes, SimpleNamespace(gt_sem_seg=PixelData(data=labels)), CLASSES)
    (drawn,) = axes.get_images()
    red, blue, none = (1, 0, 0), (0, 0, 1), tool.UNLABELLED
    assert np.array_equal(drawn.get_array(), [[red, blue], [none, blue]])


def test_boxes_of_a_low_score_are_left_out(axes):
    found = InstanceData(
        bboxes=torch.tensor([[0.0, 0, 4, 2], [1, 1, 3, 9], [5, 5, 6, 6]]),
        labels=torch.tensor([0, 1, 1]),
        scores=torch.tensor([0.9, 0.6, 0.4]),
    )
    tool.draw_predicted_boxes(axes, SimpleNamespace(pred_instances=found), CLASSES, 0.5)
    drawn = [
        (p.get_xy(), p.get_width(), p.get_height(), p.get_edgecolor()[:3]) for p in axes.patches
    ]
    # the surest on top; pixel 0 reaches from -0.5 to 0.5 in a drawn image
    assert drawn == [((0.5, 0.5), 2, 8, (0, 0, 1)), ((-0.5, -0.5), 4, 2, (1, 0, 0))]


def test_a_sheet_has_a_row_an_image_and_a_column_a_model(tmp_path):
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.full((8, 10, 3), (255, 0, 0), np.uint8))  # BGR
    sample = SimpleNamespace(
        img_path=str(path),
        gt_sem_seg=PixelData(data=torch.zeros(1, 8, 10, dtype=torch.int64)),
        pred_sem_seg=PixelData(data=torch.ones(1, 8, 10, dtype=torch.int64)),
    )
    samples = [dict(data_samples=sample)] * 2
    found = dict(One=[sample] * 2, Two=[sample] * 2)
    figure = tool.draw(samples, found, CLASSES, tool.SHEETS["mmseg"], 0.5)
    assert len(figure.axes) == 2 * 4
    assert [axes.get_title() for axes in figure.axes[:4]] == ["image", "ground truth", "One", "Two"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["disk", "ring"]
    shown = [tuple(np.asarray(axes.get_images()[-1].get_array())[0, 0]) for axes in figure.axes[4:]]
    assert shown == [(0, 0, 255), (1, 0, 0), (0, 0, 1), (0, 0, 1)]
    plt.close(figure)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--out", "a.png"], "--model"),
        (["--out", "a.png", "--images", "0", "--model", "N", CONFIG, "x.pth"], "--images"),
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


def test_a_model_without_boxes_is_told_so(axes):
    with pytest.raises(UserError, match="predicts no boxes"):
        tool.draw_predicted_boxes(axes, SimpleNamespace(), CLASSES, 0.5)
