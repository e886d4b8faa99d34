"""Label maps are checked when they are read: their size, and every label at the limits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

import numpy as np
from mmengine.dataset import Compose

from mmdysample.engine.errors import UserError
from mmdysample.engine.labels import LabelMapCheck, check_label_maps


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
    says = rf"a.png is {size[0]}x{size[1]} \(height x width\), but its picture a.jpg is 4x6"
    with pytest.raises(UserError, match=says):
        LabelMapCheck(3, 255)(results(size=size))


class LoadAnnotations:
    """Stands in for mmseg's, by whose name the check is placed."""

    def __call__(self, given: dict) -> dict:
        return given | dict(loaded=True)


def make_data_set(**attributes) -> SimpleNamespace:
    pipeline = Compose([LoadAnnotations(), lambda given: given | dict(packed=True)])
    return SimpleNamespace(pipeline=pipeline, metainfo=dict(classes=("a", "b")), **attributes)


def test_data_sets_inside_of_others_check_after_loading():
    inner = [make_data_set(ignore_index=255) for _ in range(2)]
    check_label_maps(SimpleNamespace(dataset=SimpleNamespace(datasets=inner)))
    for data_set in inner:
        assert data_set.pipeline(results(1))["packed"]
        with pytest.raises(UserError, match="has label 2"):
            data_set.pipeline(results(2))


def test_data_sets_without_label_maps_are_left_alone():
    data_set = make_data_set()
    before = list(data_set.pipeline.transforms)
    check_label_maps(data_set)
    assert data_set.pipeline.transforms == before
