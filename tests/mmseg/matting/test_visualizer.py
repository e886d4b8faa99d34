"""What drawings of alphas hold; through the tools in test_tools.py."""

from __future__ import annotations

import pytest

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmdysample.errors import InvalidValue
from mmdysample.mmseg.matting import MattingLocalVisualizer
from tests.panels import count, panel

KEYS = ("trimap", "gt_alpha", "pred_alpha")


def sample(*keys: str, shape: tuple[int, int] = (6, 7)) -> SegDataSample:
    made = SegDataSample()
    for value, key in enumerate(KEYS):
        if key in keys:
            data = torch.full((1, *shape), 100 * value, dtype=torch.uint8)
            made.set_data({key: PixelData(data=data)})
    return made


@pytest.fixture(scope="module")
def visualizer() -> MattingLocalVisualizer:
    return MattingLocalVisualizer("matting", plain_color=(255, 0, 51))


@pytest.mark.parametrize(
    ("keys", "options", "values"),
    [
        (KEYS, {}, [0, 100, 200]),
        (KEYS, dict(draw_gt=False), [0, 200]),
        (("trimap", "pred_alpha"), {}, [0, 200]),
        (KEYS, dict(draw_pred=False), [0, 100]),
    ],
)
def test_parts(keys, options, values, visualizer):
    image = np.full((6, 7, 3), 60, np.uint8)
    drawn = visualizer.draw_datasample(image, sample(*keys), **options)
    assert count(drawn, 6, 7) == int(count(drawn, 6, 7))
    parts = [panel(drawn, number, 6, 7) for number in range(int(count(drawn, 6, 7)))]
    assert np.array_equal(parts[0], image)
    for part, value in zip(parts[1:], values, strict=False):
        assert (part == value).all()
    predicted = values[-1] == 200
    assert len(parts) == 1 + len(values) + predicted
    if predicted:
        # 200/255 of 60, and 55/255 of the plain color.
        assert parts[-1][0, 0].tolist() == [round((200 * 60 + 55 * c) / 255) for c in (255, 0, 51)]


def test_nothing_to_draw(visualizer):
    image = np.zeros((6, 7, 3), np.uint8)
    assert visualizer.draw_datasample(image, SegDataSample()) is None
    assert visualizer.draw_datasample(image, None) is None


def test_an_image_of_another_size(visualizer):
    with pytest.raises(InvalidValue, match=r"pred_alpha of the sample is 6x7.*draw on is 6x8"):
        visualizer.draw_datasample(np.zeros((6, 8, 3), np.uint8), sample("pred_alpha"))


def test_no_color():
    with pytest.raises(InvalidValue, match="plain_color must be three numbers"):
        MattingLocalVisualizer("wrong", plain_color=(0, 256, 0))
