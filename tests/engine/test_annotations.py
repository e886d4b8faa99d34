"""COCO files: what a user can get wrong in them is one sentence, with the ids."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")
pytest.importorskip("pycocotools", reason="needs pycocotools: bash tools/setup_env.sh installs it")

import numpy as np
from pycocotools import mask as mask_api

from mmdysample.engine.annotations import _decompress, read_annotations
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
PANOPTIC = dict(
    images=CONTENT["images"],
    categories=[dict(category, isthing=1) for category in CONTENT["categories"]],
    annotations=[
        dict(
            image_id=3,
            file_name="a.png",
            segments_info=[dict(id=9, category_id=7, bbox=[1, 1, 4, 3], area=12)],
        )
    ],
)


def write(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content))
    return str(path)


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


def refusal(tmp_path: Path, content: Any, *classes: str, **settings) -> str:
    path = write(tmp_path / "x.json", content)
    with pytest.raises(UserError) as caught:
        read_annotations(path, classes or ("cat", "dog"), **settings)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert path in sentence
    return sentence.replace(path, "FILE")


@pytest.mark.parametrize(
    "mask",
    [
        POLYGON,
        [[1, 1, 5, 1, 5, 4.5], POLYGON],
        [POLYGON, POLYGON[:4]],  # mmdet passes over the second
        [[-1.5, -1, 9, 0, 5, 7]],  # a little outside, as COCO's own
        dict(size=[HEIGHT, WIDTH], counts=[0, 5, 43]),
        dict(size=[HEIGHT, WIDTH], counts=[48]),
        [],
        [[]],
    ],
)
def test_what_coco_has_passes(tmp_path, mask):
    mask = [mask] if mask is POLYGON else mask
    content = changed(CONTENT, "annotations", 0, "segmentation", to=mask)
    assert read_annotations(write(tmp_path / "x.json", content), ("dog", "cat")) == content


def test_a_part_of_the_classes_in_any_order_passes(tmp_path):
    path = write(tmp_path / "x.json", CONTENT)
    for classes in (None, ["dog"], ("dog", "cat")):
        assert read_annotations(path, classes, evaluated=True) == CONTENT
    panoptic = write(tmp_path / "y.json", PANOPTIC)
    assert read_annotations(panoptic, ("cat", "dog"), panoptic=True) == PANOPTIC


def test_a_test_set_needs_no_annotations(tmp_path):
    content = changed(CONTENT, "annotations", to=type)
    assert read_annotations(write(tmp_path / "x.json", content), annotated=False) == content
    assert refusal(tmp_path, content) == "FILE has no 'annotations': it is not in COCO's format"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not valid JSON"),
        ('{"images": [', "is not valid JSON"),
        ("\ufeff\x00", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "is not in COCO's format"),
        ('"images"', "is not in COCO's format"),
    ],
)
def test_files_that_are_no_objects(tmp_path, text, says):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=says):
        read_annotations(str(tmp_path / "x.json"))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"x.json cannot be read: no such file or directory$"):
        read_annotations(str(tmp_path / "x.json"))
    with pytest.raises(UserError, match=r"cannot be read: is a directory$"):
        read_annotations(str(tmp_path))
    (tmp_path / "y.json").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UserError, match="is not valid JSON"):
        read_annotations(str(tmp_path / "y.json"))


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("place", "to", "says"),
    [
        (("images",), {}, "'images' of FILE must be a list of objects"),
        (("images",), [1], "'images' of FILE must be a list of objects"),
        (("categories",), type, "FILE has no 'categories'"),
        (("images", 0, "id"), type, "image number 0 in FILE has no 'id'"),
        (("images", 0, "id"), [3], "image number 0 in FILE has the id [3]"),
        (("images", 0, "id"), "b", "FILE has several records of image 'b'"),
        (("images", 0, "file_name"), type, "image 3 in FILE has no 'file_name'"),
        (("images", 0, "file_name"), 4, "image 3 in FILE has a 'file_name' that is no text"),
        (("images", 0, "height"), type, "image 3 in FILE has no 'height'"),
        (("images", 0, "height"), 0, "image 3 in FILE is 0x8"),
        (("images", 0, "height"), -6, "image 3 in FILE is -6x8"),
        (("images", 0, "width"), "8", "image 3 in FILE is 6x8"),
        (("images", 0, "width"), NAN, "image 3 in FILE is 6xnan"),
        (("images", 0, "width"), INFINITE, "image 3 in FILE is 6xinf"),
        (("images", 0, "width"), 10**9, "image 3 in FILE is 6x1000000000"),
        (("categories", 0, "id"), 7, "FILE has several records of category 7"),
        (("categories", 0, "name"), type, "category 1 in FILE has no 'name'"),
        (("categories", 0, "name"), "dog", "class 'cat' of metainfo is not among the categories"),
        (("categories", 0, "name"), 3, "a category of FILE has the name 3"),
        (("annotations", 0, "id"), 6, "FILE has several records of annotation 6"),
        (("annotations", 0, "id"), "6", "annotation number 0 in FILE has the id '6'"),
    ],
)
def test_records(tmp_path, place, to, says):
    assert refusal(tmp_path, changed(CONTENT, *place, to=to)).startswith(says)


@pytest.mark.parametrize(
    ("key", "to", "says"),
    [
        ("image_id", type, "has no 'image_id'"),
        ("image_id", "3", "is of an image that is not among the images"),
        ("image_id", {}, "is of an image that is not among the images"),
        ("category_id", type, "has no 'category_id'"),
        ("category_id", 2, "is of category 2, which is not among the known [1, 7]"),
        ("category_id", "7", "is of category '7', which is not among the known [1, 7]"),
        ("bbox", type, "has no 'bbox'"),
        ("bbox", None, "of four finite numbers"),
        ("bbox", [1, 1, 4], "of four finite numbers"),
        ("bbox", [1, 1, 4, NAN], "of four finite numbers"),
        ("bbox", [1, 1, "4", 3], "of four finite numbers"),
        ("bbox", [1, 1, 4, 10**400], "of four finite numbers"),
        ("bbox", [1, 1, -4, 3], "negative size: [1, 1, -4, 3]"),
        ("bbox", [1e9, 1, 4, 3], "far outside of its image of 6x8 (height x width)"),
        ("bbox", [1, 1, 1e9, 3], "far outside of its image of 6x8 (height x width)"),
        ("area", type, "has no 'area'"),
        ("area", "12", "one as 'area'"),
        ("area", NAN, "one as 'area'"),
        ("area", -1, "negative size"),
        ("iscrowd", "0", "an 'iscrowd' of 0 or 1, got '0'"),
        ("iscrowd", None, "an 'iscrowd' of 0 or 1, got None"),
        ("iscrowd", {}, "an 'iscrowd' of 0 or 1, got {}"),
        ("segmentation", 5, "polygons or run lengths"),
        ("segmentation", "5", "polygons or run lengths"),
        ("segmentation", [POLYGON, [1e9] * 6], "polygon far outside of its image of 6x8"),
        ("segmentation", [[-1e9, *POLYGON[1:]]], "polygon far outside of its image of 6x8"),
        ("segmentation", [[NAN, *POLYGON[1:]]], "finite numbers x, y, x, y"),
        ("segmentation", [[*POLYGON[1:], INFINITE]], "finite numbers x, y, x, y"),
        ("segmentation", [["1", *POLYGON[1:]]], "finite numbers x, y, x, y"),
        ("segmentation", [[[1, 1], [5, 1], [5, 4]]], "finite numbers x, y, x, y"),
        ("segmentation", POLYGON, "finite numbers x, y, x, y"),
        ("segmentation", [POLYGON, []], "finite numbers x, y, x, y"),
        ("segmentation", [POLYGON[:4]], "at least three points"),
        ("segmentation", [POLYGON[:7]], "at least three points"),
        ("segmentation", dict(counts=[48]), "run lengths for the 'size' None"),
        ("segmentation", dict(size=[8, 6], counts=[48]), "run lengths for the 'size' [8, 6]"),
        ("segmentation", dict(size=[6, 8]), "must have run lengths"),
        ("segmentation", dict(size=[6, 8], counts=[48.0]), "must have run lengths"),
        ("segmentation", dict(size=[6, 8], counts=[0, -1, 49]), "a run length below 0"),
        ("segmentation", dict(size=[6, 8], counts=[40]), "add up to 40, but its image has 48"),
        ("segmentation", dict(size=[6, 8], counts=[10**30]), "but its image has 48 pixels"),
        ("segmentation", dict(size=[6, 8], counts="wild \x00"), "must have run lengths"),
        ("segmentation", dict(size=[6, 8], counts="\ud800"), "must have run lengths"),
        ("segmentation", dict(size=[6, 8], counts="é"), "must have run lengths"),
        ("segmentation", dict(size=[6, 8], counts=""), "must have run lengths"),
        ("segmentation", dict(size=[6, 8], counts="o"), "must have run lengths"),
        ("segmentation", dict(size=[6, 8], counts="o" * 30 + "0"), "must have run lengths"),
        ("segmentation", dict(size=[6, 8], counts="5"), "add up to 5, but its image has 48"),
    ],
)
def test_annotations(tmp_path, key, to, says):
    sentence = refusal(tmp_path, changed(CONTENT, "annotations", 0, key, to=to))
    who = "annotation 5" if key == "image_id" and to is type else "annotation 5 of image"
    assert sentence.startswith(who)
    assert says in sentence
    assert len(sentence) < 300


@pytest.mark.parametrize("seed", range(5))
def test_compressed_run_lengths_are_those_of_pycocotools(seed):
    random = np.random.default_rng(seed)
    mask = random.random((60, 500)) < random.choice([0.01, 0.5, 0.999])
    mask[:, : int(random.integers(400))] = seed % 2
    text = mask_api.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    column = np.concatenate([[0], mask.ravel(order="F"), [not mask[-1, -1]]])
    changes = np.flatnonzero(np.diff(column))
    assert _decompress(text) == np.diff(np.concatenate([[0], changes])).tolist()


def test_masks_where_they_are_needed(tmp_path):
    says = "annotation 5 of image 3 in FILE has no mask: its 'segmentation' is missing or empty"
    assert refusal(tmp_path, CONTENT, "dog", masks=True) == says
    empty = changed(CONTENT, "annotations", 0, "segmentation", to=[[]])
    assert refusal(tmp_path, empty, "dog", masks=True) == says
    ignored = changed(CONTENT, "annotations", 0, "ignore", to=1)
    path = write(tmp_path / "x.json", ignored)
    assert read_annotations(path, ("dog",), masks=True) == ignored


def test_what_evaluation_needs(tmp_path):
    """pycocotools reads 'iscrowd', and takes a match with annotation 0 for none."""
    without = changed(CONTENT, "annotations", 0, "iscrowd", to=type)
    assert "has no 'iscrowd', which" in refusal(tmp_path, without, evaluated=True)
    zero = changed(CONTENT, "annotations", 0, "id", to=0)
    assert "takes the id 0 for 'not found'" in refusal(tmp_path, zero, evaluated=True)
    for content in (without, zero):
        assert read_annotations(write(tmp_path / "x.json", content)) == content


def test_classes(tmp_path):
    """mmdet leaves a class that it does not find out, and the labels behind it move up."""
    assert refusal(tmp_path, CONTENT, "cta", "dog") == (
        "class 'cta' of metainfo is not among the categories of FILE (did you mean 'cat'?): set "
        "metainfo.classes to names that are there"
    )
    assert "class 'bus' and 1 more of metainfo" in refusal(tmp_path, CONTENT, "bus", "cat", "car")
    twice = changed(CONTENT, "categories", 0, "name", to="dog")
    assert refusal(tmp_path, twice, "dog") == "FILE has several categories of the name 'dog'"
    path = write(tmp_path / "x.json", CONTENT)
    with pytest.raises(UserError, match="classes of metainfo has 'dog' more than once"):
        read_annotations(path, ["dog", "cat", "dog"])
    with pytest.raises(UserError, match="must be a list of names, got 'cat'"):
        read_annotations(path, "cat")


@pytest.mark.parametrize(
    ("place", "to", "says"),
    [
        (("categories", 0, "isthing"), type, "category 1 in FILE has no 'isthing'"),
        (("annotations", 0, "segments_info"), type, "an annotation of FILE has no 'segments_info'"),
        (("annotations", 0, "image_id"), 4, "an annotation of FILE is of image 4"),
        (("annotations", 0, "image_id"), [], "an annotation of FILE is of image []"),
        (("annotations", 0, "segments_info", 0), 1, "'segments_info' of image 3 in FILE must be"),
        (
            ("annotations", 0, "segments_info", 0, "bbox"),
            [0, 0, 1, NAN],
            "segment 9 of image 3 in FILE must have a 'bbox'",
        ),
        (
            ("annotations",),
            PANOPTIC["annotations"] * 2,
            "FILE has several annotations of image 3",
        ),
        (
            ("annotations", 0, "segments_info"),
            PANOPTIC["annotations"][0]["segments_info"] * 2,
            "image 3 in FILE has several records of segment 9",
        ),
    ],
)
def test_panoptic(tmp_path, place, to, says):
    sentence = refusal(tmp_path, changed(PANOPTIC, *place, to=to), panoptic=True)
    assert sentence.startswith(says)
