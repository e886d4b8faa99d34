"""LoadPanopticSegments against mmdet's transform, and the data set's checks."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

from mmdet.datasets.transforms import LoadPanopticAnnotations
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope

from mmdysample.mmdet import LoadPanopticSegments
from mmdysample.mmdet.panoptic.segments import id_to_rgb, rgb_to_id
from tests.mmdet.panoptic_data import META, Example, draw_examples, write

CAT, DOG, SKY, SEA = 1, 4, 90, 91


def make_dataset(root, kind="CocoPanopticDataset", **kwargs):
    settings = dict(
        type=kind,
        data_root=str(root),
        ann_file="panoptic.json",
        data_prefix=dict(img="images/", seg="segments/"),
        metainfo=META,
        test_mode=True,
        pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadPanopticSegments")],
    )
    with DefaultScope.overwrite_default_scope("mmdet"):
        return DATASETS.build(settings | kwargs)


def test_masks_labels_and_boxes_of_an_image(tmp_path):
    ids = [[70000, 70000, 300, 300], [70000, 0, 300, 8], [5, 5, 5, 8]]
    example = Example(ids, {70000: DOG, 300: CAT, 8: CAT, 5: SEA}, crowds={300})
    (item,) = make_dataset(write(tmp_path / "data", [example]))
    # Crowds are labelled, but are no instances.
    assert item["gt_seg_map"].dtype == np.uint8
    assert item["gt_seg_map"].tolist() == [[1, 1, 0, 0], [1, 255, 0, 0], [3, 3, 3, 0]]
    assert item["gt_masks"].masks.tolist() == [
        [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]],
    ]
    assert item["gt_bboxes_labels"].tolist() == [1, 0]
    assert item["gt_bboxes"].tensor.tolist() == [[0, 0, 2, 2], [3, 1, 4, 3]]
    assert item["gt_ignore_flags"].tolist() == [False, False]


def test_it_gives_what_mmdets_transform_gives(tmp_path):
    """That takes one function from panopticapi, which turns colours into ids."""
    upstream = object.__new__(LoadPanopticAnnotations)
    upstream.__dict__.update(LoadPanopticSegments().__dict__)
    upstream.rgb2id = lambda colors: colors.astype(np.int64) @ np.array([1, 256, 256**2])
    root = write(tmp_path / "data", draw_examples(0, 12))
    ours = make_dataset(root)
    theirs = make_dataset(root, "CocoPanopticDataset", pipeline=[])
    theirs.pipeline = Compose([TRANSFORMS.build(dict(type="LoadImageFromFile")), upstream])
    assert len(ours) == len(theirs) == 12
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["segments_info"] == other["segments_info"]
        assert mine["instances"] == other["instances"]
        assert np.array_equal(mine["gt_seg_map"], other["gt_seg_map"])
        assert np.array_equal(mine["gt_masks"].masks, other["gt_masks"].masks)
        assert np.array_equal(mine["gt_bboxes"].tensor, other["gt_bboxes"].tensor)
        for name in ("gt_bboxes_labels", "gt_ignore_flags"):
            assert np.array_equal(mine[name], other[name]), name


def test_parts_may_be_left_out(tmp_path):
    root = write(tmp_path / "data", draw_examples(0, 1))
    for name, key in (("with_seg", "gt_seg_map"), ("with_mask", "gt_masks")):
        step = dict(type="LoadPanopticSegments") | {name: False}
        (item,) = make_dataset(root, pipeline=[dict(type="LoadImageFromFile"), step])
        others = {"gt_seg_map", "gt_masks", "gt_bboxes"} - {key}
        assert key not in item and others <= item.keys()


def test_an_image_without_annotations_goes_through():
    """As an inferencer hands it on."""
    results = dict(img=np.zeros((4, 6, 3), np.uint8), ori_shape=(4, 6), img_shape=(4, 6))
    results = LoadPanopticSegments()(results)
    assert len(results["gt_bboxes"]) == 0
    assert "gt_seg_map" not in results and "gt_masks" not in results


def test_ids_and_colors():
    """R + 256 G + 65536 B."""
    ids = np.array([[0, 1, 255, 256], [65535, 65536, 1234567, 2**24 - 1]])
    colors = id_to_rgb(ids)
    # 1234567 = 135 + 214 * 256 + 18 * 65536
    assert colors[1, 2].tolist() == [135, 214, 18]
    assert colors[0, 3].tolist() == [0, 1, 0] and colors[1, 3].tolist() == [255, 255, 255]
    assert np.array_equal(rgb_to_id(colors), ids)


EXAMPLE = dict(ids=[[1, 1, 2, 2]] * 4, categories={1: CAT, 2: SKY})


def test_files_that_do_not_fit(tmp_path):
    root = write(tmp_path / "data", [Example(**EXAMPLE)])
    path = root / "segments/001.png"
    colors = np.zeros((4, 4, 3), np.uint8)
    colors[0, 0, 2], colors[1, 1, 2], colors[2:, :, 2] = 77, 99, 1
    cv2.imwrite(str(path), colors)
    with pytest.raises(ValueError, match=f"^{path} has pixels of segment 77 and 1 more, which the"):
        make_dataset(root)[0]
    cv2.imwrite(str(path), colors[:3])
    with pytest.raises(ValueError, match=rf"{path} are 3x4 .*, but their image .*/001.jpg"):
        make_dataset(root)[0]


def test_segments_that_mmdet_leaves_out_are_told(tmp_path):
    """mmdet drops records whose area is 0, whatever the PNG file has."""
    example = Example(**EXAMPLE)
    example.records[0]["area"] = 0
    with pytest.raises(ValueError, match=r"pixels of segment 1, .* or lists as empty"):
        make_dataset(write(tmp_path / "data", [example]))[0]


def test_segments_of_other_images_may_have_the_same_id(tmp_path):
    examples = [
        Example([[1, 1, 2, 2]], {1: CAT, 2: SKY}),
        Example([[2, 2, 2, 1]], {1: SEA, 2: DOG}),
    ]
    root = write(tmp_path / "data", examples)
    maps = [item["gt_seg_map"].tolist() for item in make_dataset(root)]
    assert maps == [[[0, 0, 2, 2]], [[1, 1, 1, 3]]]
    assert len(json.loads((root / "panoptic.json").read_text())["annotations"]) == 2
