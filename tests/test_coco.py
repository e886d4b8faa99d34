"""COCO files: what a user can get wrong in them is one sentence, with the ids."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")
pytest.importorskip("pycocotools", reason="needs pycocotools: bash tools/setup_env.sh installs it")

import numpy as np
from pycocotools import mask as mask_api

from mmdysample.coco import _decompress, check_annotations, read_annotations
from mmdysample.errors import UserError

HEIGHT, WIDTH = 6, 8
POLYGON = [1, 1, 5, 1, 5, 4, 1, 4]
CONTENT = dict(
    images=[
        dict(id=3, file_name="a.jpg", height=HEIGHT, width=WIDTH),
        dict(id="b", file_name="b.jpg", height=HEIGHT, width=WIDTH),
    ],
    categories=[dict(id=1, name="cat"), dict(id=7, name="dog")],
    annotations=[
        dict(id=5, image_id=3, category_id=7, bbox=[1, 1, 4, 3], area=12.0, iscrowd=0),
        dict(id=6, image_id="b", category_id=1, bbox=[0, 0, 8, 6], area=48, iscrowd=1),
    ],
)
SEGMENT = dict(id=9, category_id=7, bbox=[1, 1, 4, 3], area=12)
PANOPTIC = dict(
    images=CONTENT["images"],
    categories=[dict(category, isthing=1) for category in CONTENT["categories"]],
    annotations=[dict(image_id=3, file_name="a.png", segments_info=[SEGMENT])],
)


def changed(content: dict, *place: Any, to: Any) -> dict:
    """A copy with the value at a place replaced, or taken away where ``to`` is a type."""
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if isinstance(to, type):
        del inner[place[-1]]
    else:
        inner[place[-1]] = to
    return content


def refusal(content: Any, *classes: str, **settings) -> str:
    with pytest.raises(UserError) as caught:
        check_annotations(content, "FILE", classes or ("cat", "dog"), **settings)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 300
    return sentence


@pytest.mark.parametrize(
    "mask",
    [
        [[1, 1, 5, 1, 5, 4.5], POLYGON],
        [POLYGON, POLYGON[:4]],  # mmdet passes over the second
        [[-1.5, -1, 9, 0, 5, 7]],  # a little outside, as COCO's own
        dict(size=[HEIGHT, WIDTH], counts=[0, 5, 43]),
        [[]],
    ],
)
def test_what_coco_has_passes(mask):
    content = changed(CONTENT, "annotations", 0, "segmentation", to=mask)
    check_annotations(content, "FILE", ("dog", "cat"))


def test_a_part_of_the_classes_passes():
    for classes in (None, ["dog"], ("dog", "cat")):
        check_annotations(CONTENT, "FILE", classes, evaluated=True)
    check_annotations(PANOPTIC, "FILE", ("cat", "dog"), panoptic=True)


def test_a_test_set_needs_no_annotations():
    content = changed(CONTENT, "annotations", to=type)
    check_annotations(content, "FILE", annotated=False)
    assert refusal(content) == "FILE has no 'annotations': it is not in COCO's format"


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(UserError, match=r"x.json cannot be read: no such file or directory$"):
        read_annotations(str(path))
    with pytest.raises(UserError, match=r"cannot be read: is a directory$"):
        read_annotations(str(tmp_path))
    for content in (b"", b'{"images": [', b"\xff\xfe\xfa", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x.json is not valid JSON: "):
            read_annotations(str(path))
    path.write_text("[]")
    with pytest.raises(UserError, match=r"x.json is not in COCO's format"):
        read_annotations(str(path))
    path.write_text(json.dumps(CONTENT))
    assert read_annotations(str(path)) == CONTENT


NAN, INFINITE = float("nan"), float("inf")
NOT_COMPRESSED = ["wild \x00", "\ud800", "é", "", "o", "5o", "/", "p", "o" * 30 + "0"]


@pytest.mark.parametrize(
    ("place", "to", "says"),
    [
        (("images",), {}, "the records of each image in FILE must be a list of objects"),
        (("images",), [1], "the records of each image in FILE must be a list of objects"),
        (("categories",), type, "FILE has no 'categories'"),
        (("images", 0, "id"), type, "image number 0 in FILE has no 'id'"),
        (("images", 0, "id"), [3], "'id' of image [3] in FILE must be an integer or text, got [3]"),
        (("images", 0, "id"), "b", "image 'b' is more than once in FILE"),
        (("images", 0, "file_name"), 4, "'file_name' of image 3 in FILE must be text, got 4"),
        (("images", 0, "height"), type, "image 3 in FILE has no 'height'"),
        (("images", 0, "height"), 0, "image 3 in FILE is 0x8"),
        (("images", 0, "height"), 5.5, "image 3 in FILE is 5.5x8"),
        (("images", 0, "width"), "8", "'width' of image 3 in FILE must be a number, got '8'"),
        (("images", 0, "width"), NAN, "image 3 in FILE is 6xnan"),
        (("images", 0, "width"), INFINITE, "image 3 in FILE is 6xinf"),
        (("images", 0, "width"), 10**9, "image 3 in FILE is 6x1000000000"),
        (("categories", 0, "id"), 7, "category 7 is more than once in FILE"),
        (("categories", 0, "name"), "dog", "class 'cat' of metainfo is not among the categories"),
        (("categories", 0, "name"), 3, "'name' of category 1 in FILE must be text, got 3"),
        (("annotations", 0, "id"), 6, "annotation 6 of image 'b' is more than once in FILE"),
        (("annotations", 0, "id"), "6", "'id' of annotation '6' of image 3 in FILE must be an int"),
    ],
)
def test_records(place, to, says):
    assert refusal(changed(CONTENT, *place, to=to)).startswith(says)


@pytest.mark.parametrize(
    ("key", "says", "values"),
    [
        ("image_id", "annotation 5 in FILE has no 'image_id'", [type]),
        ("image_id", "is of an image that is not among the images", ["3"]),
        ("image_id", "must be an integer or text, got {}", [{}]),
        ("category_id", "is of category 2, which is not among the known [1, 7]", [2]),
        ("category_id", "must be an integer, got '7'", ["7"]),
        ("bbox", "has no 'bbox'", [type]),
        ("bbox", "must be a list, got None", [None]),
        (
            "bbox",
            "of four finite numbers",
            [[1, 1, 4], [1, 1, 4, NAN], [1, 1, "4", 3], [1, 1, 4, 10**400], [1, 1, -4, 3]],
        ),
        (
            "bbox",
            "far outside of its image of 6x8 (height x width)",
            [[-1e9, 1, 4, 3], [1, 1e9, 4, 3], [1, 1, 1e9, 3], [1, 1, 4, 16]],
        ),
        ("area", "must be a number, got '12'", ["12"]),
        ("area", "finite number of at least 0", [NAN, INFINITE, -1]),
        ("iscrowd", "an 'iscrowd' of 0 or 1", ["0", None, {}, 2]),
        ("segmentation", "must have polygons or run lengths", [5, "5"]),
        (
            "segmentation",
            "polygon far outside of its image of 6x8",
            [[POLYGON, [1e9] * 6], [[-1e9, *POLYGON[1:]]], [[*POLYGON, 1, 17]]],
        ),
        (
            "segmentation",
            "finite numbers x, y, x, y",
            [
                *([[wrong, *POLYGON[1:]]] for wrong in (NAN, INFINITE, "1", None)),
                *([[[1, 1], [5, 1], [5, 4]]], POLYGON, [POLYGON, []]),
            ],
        ),
        ("segmentation", "at least three points", [[POLYGON[:4]], [POLYGON[:7]]]),
        (
            "segmentation",
            "must have run lengths, of which the 'size' is its image's, [6, 8], and the 'counts' "
            "add up to its 48 pixels, got ",
            [
                *(dict(counts=[48]), dict(size=[8, 6], counts=[48]), dict(size=[6, 8])),
                *(
                    dict(size=[6, 8], counts=counts)
                    for counts in ([48.0], [0, -1, 49], [40], [10**30], "5", *NOT_COMPRESSED)
                ),
            ],
        ),
    ],
)
def test_annotations(key, says, values):
    for value in values:
        sentence = refusal(changed(CONTENT, "annotations", 0, key, to=value))
        assert "annotation 5" in sentence
        assert says in sentence


def test_texts_that_are_no_run_lengths():
    for text in NOT_COMPRESSED:
        assert _decompress(text) is None


@pytest.mark.parametrize("seed", range(3))
def test_compressed_run_lengths_are_those_of_pycocotools(seed):
    random = np.random.default_rng(seed)
    mask = random.random((60, 500)) < random.choice([0.01, 0.5, 0.999])
    mask[:, : int(random.integers(400))] = seed % 2
    text = mask_api.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    column = np.concatenate([[0], mask.ravel(order="F"), [not mask[-1, -1]]])
    changes = np.flatnonzero(np.diff(column))
    assert _decompress(text) == np.diff(np.concatenate([[0], changes])).tolist()


def test_masks_where_they_are_needed():
    says = "annotation 5 of image 3 in FILE has no mask: its 'segmentation' is missing or empty"
    assert refusal(CONTENT, "dog", masks=True) == says
    empty = changed(CONTENT, "annotations", 0, "segmentation", to=[[]])
    assert refusal(empty, "dog", masks=True) == says
    ignored = changed(CONTENT, "annotations", 0, "ignore", to=1)
    check_annotations(ignored, "FILE", ("dog",), masks=True)


def test_what_evaluation_needs():
    """pycocotools reads 'iscrowd', and takes a match with annotation 0 for none."""
    without = changed(CONTENT, "annotations", 0, "iscrowd", to=type)
    assert "has no 'iscrowd', which" in refusal(without, evaluated=True)
    zero = changed(CONTENT, "annotations", 0, "id", to=0)
    assert "takes the id 0 for 'not found'" in refusal(zero, evaluated=True)
    for content in (without, zero):
        check_annotations(content, "FILE")


def test_classes():
    """mmdet leaves a class that it does not find out, and the labels behind it move up."""
    assert refusal(CONTENT, "cta", "dog") == (
        "class 'cta' of metainfo is not among the categories of FILE (did you mean 'cat'?): set "
        "metainfo.classes to names that are there"
    )
    assert "class 'bus' and 1 more of metainfo" in refusal(CONTENT, "bus", "cat", "car")
    twice = changed(CONTENT, "categories", 0, "name", to="dog")
    assert refusal(twice, "dog") == (
        "classes of metainfo and the categories of FILE must have different names, got ['dog'] and "
        "['dog', 'dog']"
    )
    assert "must have different names" in refusal(CONTENT, "dog", "cat", "dog")
    with pytest.raises(UserError, match="must be a list of names, got 'cat'"):
        check_annotations(CONTENT, "FILE", "cat")
    assert "9 of image 3 in FILE is of category 7" in refusal(PANOPTIC, "cat", panoptic=True)
    assert refusal(PANOPTIC, "dog", "cat", panoptic=True) == (
        "classes of metainfo must be in the order of the categories of FILE, ['cat', 'dog']"
    )


OF_IMAGE, SEGMENTS = ("annotations", 0), ("annotations", 0, "segments_info")


@pytest.mark.parametrize(
    ("place", "to", "says"),
    [
        (("categories", 0, "isthing"), type, "panoptic category 1 in FILE has no 'isthing'"),
        (SEGMENTS, type, "annotation of image 3 in FILE has no 'segments_info'"),
        ((*OF_IMAGE, "image_id"), 4, "FILE has an annotation of image 4, which is not in it"),
        (OF_IMAGE[:1], PANOPTIC["annotations"] * 2, "annotation of image 3 is more than once"),
        ((*SEGMENTS, 0), 1, "the records of each segment in image 3 in FILE must be a list"),
        ((*SEGMENTS, 0, "id"), 0, "segment 0 of image 3 in FILE cannot be: the id 0 stands for v"),
        ((*SEGMENTS, 0, "category_id"), 4, "segment 9 of image 3 in FILE is of category 4"),
        ((*SEGMENTS, 0, "bbox"), [0, 0, 1, NAN], "segment 9 of image 3 in FILE must have a 'bbox'"),
        (SEGMENTS, [SEGMENT, SEGMENT], "segment 9 is more than once in image 3 in FILE"),
    ],
)
def test_panoptic(place, to, says):
    sentence = refusal(changed(PANOPTIC, *place, to=to), panoptic=True)
    assert sentence.startswith(says)
