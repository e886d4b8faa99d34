"""Boxes and run lengths against loops over pixels, and records against the drawn masks."""

import numpy as np
import pytest

from tools.shapes.annotations import (
    bounding_box,
    instance_records,
    panoptic_segments,
    run_lengths,
)
from tools.shapes.scene import Scene, draw_scene


def decode(rle: dict) -> np.ndarray:
    height, width = rle["size"]
    mask = np.zeros((height, width), bool)
    position, value = 0, False
    for count in rle["counts"]:
        for _ in range(count):
            mask[position % height, position // height] = value
            position += 1
        value = not value
    assert position == height * width
    return mask


def blobs(seed: int) -> np.ndarray:
    """Random masks with parts, holes, contacts at corners, and pixels at the border."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 14, 2)
    return rng.random((height, width)) < rng.uniform(0.2, 0.9)


@pytest.mark.parametrize("seed", range(10))
def test_run_lengths_and_boxes(seed):
    mask = blobs(seed)
    np.testing.assert_array_equal(decode(run_lengths(mask)), mask)
    if mask.any():
        rows, columns = np.nonzero(mask)
        x, y, width, height = bounding_box(mask)
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width - 1, y + height - 1) == (columns.max(), rows.max())


def test_run_lengths_start_with_zeros():
    assert run_lengths(np.array([[0, 0], [1, 0]], bool)) == {"size": [2, 2], "counts": [1, 1, 2]}
    assert run_lengths(np.array([[1, 0], [1, 0]], bool)) == {"size": [2, 2], "counts": [0, 2, 2]}


def test_records_agree_with_the_scene():
    for index in range(30):
        check_records(draw_scene(3, 0, index, 64, 80))


def check_records(scene: Scene) -> None:
    records = instance_records(scene, image_id=7)
    colors, segments = panoptic_segments(scene)
    ids = colors[..., 0] + 256 * colors[..., 1].astype(int) + 65536 * colors[..., 2].astype(int)

    assert [record["id"] for record in records] == [701 + i for i in range(len(scene.instances))]
    assert len({segment["id"] for segment in segments} - {0}) == len(segments)

    covered = np.zeros(scene.semantic.shape, bool)
    for segment in segments:
        mask = ids == segment["id"]
        covered |= mask
        assert mask.sum() == segment["area"] > 0
        assert bounding_box(mask) == segment["bbox"]
        assert (scene.semantic[mask] == segment["category_id"]).all()
    np.testing.assert_array_equal(covered, scene.semantic > 0)
    for record, segment in zip(records, segments, strict=False):
        for key in ("category_id", "bbox", "area", "iscrowd"):
            assert record[key] == segment[key]
        np.testing.assert_array_equal(decode(record["segmentation"]), ids == segment["id"])
