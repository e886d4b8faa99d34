"""The files of a drawn data set, read again, are what was drawn."""

import json

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2", reason="needs OpenCV: bash tools/setup_env.sh installs it")

from tools.shapes.annotations import instance_records, panoptic_segments  # noqa: E402
from tools.shapes.classes import CATEGORIES, THINGS  # noqa: E402
from tools.shapes.scene import draw_scene  # noqa: E402

SPLITS = [("train2017", "training", 24), ("val2017", "validation", 8)]


@pytest.fixture(params=SPLITS, ids=lambda split: split[0])
def split(request):
    return request.param


def read(path):
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None, path
    return pixels


def load(directory, kind, coco):
    return json.loads((directory / f"annotations/{kind}_{coco}.json").read_text())


def test_files_are_complete(shapes_directory, split):
    coco, ade, count = split
    images = load(shapes_directory, "instances", coco)["images"]
    assert len(images) == count
    assert images == load(shapes_directory, "panoptic", coco)["images"]
    stems = [image["file_name"].removesuffix(".jpg") for image in images]
    assert stems == [f"{image['id']:012d}" for image in images]
    for directory, suffix in [
        (coco, ".jpg"),
        (f"images/{ade}", ".jpg"),
        (f"annotations/{ade}", ".png"),
        (f"annotations/panoptic_{coco}", ".png"),
        (f"depth/{ade}", ".png"),
    ]:
        names = sorted(path.name for path in (shapes_directory / directory).iterdir())
        assert names == [stem + suffix for stem in stems]


def test_images_are_stored_once(shapes_directory, split):
    coco, ade, _ = split
    for path in (shapes_directory / coco).iterdir():
        assert path.samefile(shapes_directory / "images" / ade / path.name)


def test_categories(shapes_directory, split):
    instances = load(shapes_directory, "instances", split[0])["categories"]
    panoptic = load(shapes_directory, "panoptic", split[0])["categories"]
    assert [category["name"] for category in instances] == list(THINGS)
    assert [category["id"] for category in panoptic] == list(range(1, len(CATEGORIES) + 1))
    things = [category["id"] for category in panoptic if category["isthing"]]
    assert things == [category["id"] for category in instances]


def test_files_hold_what_was_drawn(shapes_directory, split):
    """Masks, label maps and depth: also tests of the loaders, in test_loaders.py."""
    coco, ade, count = split
    instances = load(shapes_directory, "instances", coco)["annotations"]
    panoptic = load(shapes_directory, "panoptic", coco)["annotations"]
    first = []
    for index, (segments, image) in enumerate(
        zip(panoptic, load(shapes_directory, "instances", coco)["images"], strict=True)
    ):
        scene = draw_scene(0, int(coco == "val2017"), index, 96, 128)
        first += instance_records(scene, image["id"])
        colors, records = panoptic_segments(scene)
        name = image["file_name"].replace("jpg", "png")
        assert segments == dict(image_id=image["id"], file_name=name, segments_info=records)
        png = read(shapes_directory / f"annotations/panoptic_{coco}" / name)
        np.testing.assert_array_equal(png[..., ::-1], colors)
        depth = read(shapes_directory / "depth" / ade / name)
        np.testing.assert_array_equal(depth, scene.depth)
    assert instances == first
    assert len(panoptic) == count
    assert {0, 1} == {record["iscrowd"] for record in first} or coco == "val2017"


def test_mattes_make_up_the_image(shapes_directory, split):
    _, ade, count = split
    mattes = shapes_directory / "matting" / ade
    found = sorted((mattes / "alpha").iterdir())
    assert count - 2 <= len(found) <= count
    for path in found:
        alpha = read(path).astype(float)[..., None] / 255
        foreground = read(mattes / "fg" / f"{path.stem}.jpg")
        background = read(mattes / "bg" / f"{path.stem}.jpg")
        image = read(shapes_directory / "images" / ade / f"{path.stem}.jpg")
        composed = alpha * foreground + (1 - alpha) * background
        assert np.abs(composed - image).mean() < 3.0, "the difference of three JPEG files"
        trimap = read(mattes / "trimap" / path.name)
        assert (alpha[trimap == 255] == 1).all()
        assert (alpha[trimap == 0] == 0).all()
