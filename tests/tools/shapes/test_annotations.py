"""Boxes, polygons and run lengths against loops over pixels, and against COCO's own code."""

import numpy as np
import pytest

from tools.shapes.annotations import (
    bounding_box,
    instance_records,
    panoptic_segments,
    run_lengths,
    segmentation,
    trace_outlines,
)
from tools.shapes.scene import draw_scene


def parse(picture: str) -> np.ndarray:
    return np.array([[char == "#" for char in row] for row in picture.split()])


def fill(outlines: list[list[int]], height: int, width: int) -> np.ndarray:
    """Even-odd rule at pixel centres: count the vertical edges to the left."""
    mask = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            crossings = 0
            for outline in outlines:
                points = list(zip(outline[0::2], outline[1::2], strict=True))
                for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
                    assert ax == bx or ay == by, "edges follow the pixels"
                    crossings += ax == bx and ax <= x and min(ay, by) <= y < max(ay, by)
            mask[y, x] = crossings % 2 == 1
    return mask


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


@pytest.mark.parametrize(
    ("picture", "outer", "holes"),
    [
        ("#", [[0, 0, 1, 0, 1, 1, 0, 1]], []),
        ("... .## .#.", [[1, 1, 3, 1, 3, 2, 2, 2, 2, 3, 1, 3]], []),
        ("#. .#", [[0, 0, 1, 0, 1, 1, 0, 1], [1, 1, 2, 1, 2, 2, 1, 2]], []),
        ("### #.# ###", [[0, 0, 3, 0, 3, 3, 0, 3]], [[1, 1, 1, 2, 2, 2, 2, 1]]),
        # the pocket is open at its corner: one outline that touches itself, no hole
        ("##. #.# ###", [[0, 0, 2, 0, 2, 1, 1, 1, 1, 2, 2, 2, 2, 1, 3, 1, 3, 3, 0, 3]], []),
    ],
    ids=["pixel", "corner", "diagonal", "hole", "pocket"],
)
def test_outlines_of_small_masks(picture, outer, holes):
    def canonical(outlines):
        """Each outline as its set of directed corners: where it starts does not matter."""
        result = []
        for outline in outlines:
            points = list(zip(outline[0::2], outline[1::2], strict=True))
            start = points.index(min(points))
            result.append(tuple(points[start:] + points[:start]))
        return sorted(result)

    found_outer, found_holes = trace_outlines(parse(picture))
    assert canonical(found_outer) == canonical(outer)
    assert canonical(found_holes) == canonical(holes)


@pytest.mark.parametrize("seed", range(40))
def test_filled_outlines_give_back_the_mask(seed):
    mask = blobs(seed)
    outer, holes = trace_outlines(mask)
    np.testing.assert_array_equal(fill(outer + holes, *mask.shape), mask)
    # without the holes: everything that a walk from outside, diagonals allowed, cannot reach
    outside = np.pad(~mask, 1, constant_values=True)
    reached = np.zeros_like(outside)
    todo = [(0, 0)]
    while todo:
        y, x = todo.pop()
        if reached[y, x]:
            continue
        reached[y, x] = True
        for ny in range(max(y - 1, 0), min(y + 2, outside.shape[0])):
            for nx in range(max(x - 1, 0), min(x + 2, outside.shape[1])):
                if outside[ny, nx]:
                    todo.append((ny, nx))
    np.testing.assert_array_equal(fill(outer, *mask.shape), ~reached[1:-1, 1:-1])


@pytest.mark.parametrize("seed", range(10))
def test_run_lengths_and_boxes(seed):
    mask = blobs(seed)
    np.testing.assert_array_equal(decode(run_lengths(mask)), mask)
    if mask.any():
        rows, columns = np.nonzero(mask)
        x, y, width, height = bounding_box(mask)
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width - 1, y + height - 1) == (columns.max(), rows.max())


@pytest.mark.parametrize("seed", range(40))
def test_coco_decodes_exactly_the_mask(seed):
    coco_mask = pytest.importorskip(
        "pycocotools.mask", reason="needs pycocotools: bash tools/setup_env.sh installs it"
    )
    mask = blobs(seed)
    if not mask.any():
        mask[0, 0] = True
    height, width = mask.shape
    for is_crowd in (False, True):
        found = segmentation(mask, is_crowd)
        if isinstance(found, list):
            encoded = coco_mask.merge(coco_mask.frPyObjects(found, height, width))
        else:
            encoded = coco_mask.frPyObjects(found, height, width)
        np.testing.assert_array_equal(coco_mask.decode(encoded).astype(bool), mask)


def test_kinds_of_segmentation():
    solid, holed = parse("## ##"), parse("### #.# ###")
    assert segmentation(solid, is_crowd=False) == [[0, 0, 2, 0, 2, 2, 0, 2]]
    assert segmentation(solid, is_crowd=True) == {"size": [2, 2], "counts": [0, 4]}
    assert segmentation(holed, is_crowd=False) == {"size": [3, 3], "counts": [0, 4, 1, 4]}


@pytest.mark.parametrize("index", range(30))
def test_records_agree_with_the_scene(index):
    scene = draw_scene(3, 0, index, 96, 112)
    records = instance_records(scene, image_id=7)
    colors, segments = panoptic_segments(scene)
    ids = colors[..., 0] + 256 * colors[..., 1].astype(int) + 65536 * colors[..., 2].astype(int)

    assert len({record["id"] for record in records}) == len(records) == len(scene.instances)
    assert all(700 < record["id"] < 800 for record in records)
    assert len({segment["id"] for segment in segments}) == len(segments)
    assert 0 not in {segment["id"] for segment in segments}

    covered = np.zeros(scene.semantic.shape, bool)
    for segment in segments:
        mask = ids == segment["id"]
        assert not (covered & mask).any()
        covered |= mask
        assert mask.sum() == segment["area"] > 0
        assert bounding_box(mask) == segment["bbox"]
        assert (scene.semantic[mask] == segment["category_id"]).all()
    np.testing.assert_array_equal(covered, scene.semantic > 0)
    for record, segment in zip(records, segments, strict=False):
        for key in ("category_id", "bbox", "area", "iscrowd"):
            assert record[key] == segment[key]
