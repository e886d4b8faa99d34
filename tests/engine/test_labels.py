"""Label maps are checked when they are read: their size, and every label at the limits."""

from __future__ import annotations

import pytest

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

import numpy as np

from mmdysample.engine.labels import LabelMapCheck
from mmdysample.errors import UserError


def results(label: int = 0, size: tuple[int, int] = (4, 6)) -> dict:
    labels = np.zeros(size, np.uint8)
    labels[1, 2] = label
    return dict(gt_seg_map=labels, ori_shape=(4, 6), seg_map_path="a.png", img_path="a.jpg")


@pytest.mark.parametrize("label", [0, 2, 255])
def test_labels_of_the_classes_and_the_ignored_one_pass(label):
    given = results(label)
    assert LabelMapCheck(3, 255)(given) is given


@pytest.mark.parametrize("label", [3, 4, 254])
def test_the_first_label_beyond_the_classes_is_refused(label):
    """MaskFormer would train a label of num_classes as 'nothing'."""
    with pytest.raises(UserError, match=f"a.png has label {label}, .* 3 classes, 0 to 2, and 255"):
        LabelMapCheck(3, 255)(results(label))
    assert LabelMapCheck(None, 255)(results(label))


@pytest.mark.parametrize("size", [(4, 7), (5, 6), (6, 4)])
def test_another_size_is_refused(size):
    says = rf"a.png is {size[0]}x{size[1]} \(height x width\), but its image a.jpg is 4x6"
    with pytest.raises(UserError, match=says):
        LabelMapCheck(3, 255)(results(size=size))
