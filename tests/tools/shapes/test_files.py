"""The files of a drawn data set, read again, agree pixel for pixel."""

import json

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2", reason="needs OpenCV: bash tools/setup_env.sh installs it")

from tools.shapes.classes import CATEGORIES, THINGS  # noqa: E402

SPLITS = [("train2017", "training", 24), ("val2017", "validation", 8)]


@pytest.fixture(params=SPLITS, ids=lambda split: split[0])
def split(request):
    return request.param


def read(path):
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None, path
    return pixels


def load(folder, kind, coco):
    return json.loads((folder / f"annotations/{kind}_{coco}.json").read_text())


def fill(segmentation, height, width):
    """A mask from run lengths or from polygons along pixel edges."""
    mask = np.zeros((height, width), bool)
    if isinstance(segmentation, dict):
        values = np.arange(len(segmentation["counts"])) % 2 == 1
        return np.repeat(values, segmentation["counts"]).reshape(width, height).T
    for polygon in segmentation:
        points = np.array(polygon).reshape(-1, 2)
        for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, 0), strict=True):
            if ax == bx:  # a vertical edge flips everything to its right
                mask[min(ay, by) : max(ay, by), ax:] ^= True
    return mask


def test_files_are_complete(shapes_folder, split):
    coco, ade, count = split
    images = load(shapes_folder, "instances", coco)["images"]
    assert len(images) == count
    assert images == load(shapes_folder, "panoptic", coco)["images"]
    stems = [image["file_name"].removesuffix(".jpg") for image in images]
    assert stems == [f"{image['id']:012d}" for image in images]
    for folder, suffix in [
        (coco, ".jpg"),
        (f"images/{ade}", ".jpg"),
        (f"annotations/{ade}", ".png"),
        (f"annotations/panoptic_{coco}", ".png"),
        (f"depth/{ade}", ".png"),
    ]:
        names = sorted(path.name for path in (shapes_folder / folder).iterdir())
        assert names == [stem + suffix for stem in stems]


def test_pictures_are_stored_once(shapes_folder, split):
    coco, ade, _ = split
    for path in (shapes_folder / coco).iterdir():
        assert path.samefile(shapes_folder / "images" / ade / path.name)


def test_categories(shapes_folder, split):
    instances = load(shapes_folder, "instances", split[0])["categories"]
    panoptic = load(shapes_folder, "panoptic", split[0])["categories"]
    assert [category["name"] for category in instances] == list(THINGS)
    assert [category["id"] for category in panoptic] == list(range(1, len(CATEGORIES) + 1))
    things = [category["id"] for category in panoptic if category["isthing"]]
    assert things == [category["id"] for category in instances]


def test_labels_agree(shapes_folder, split):
    coco, ade, _ = split
    instances = load(shapes_folder, "instances", coco)
    panoptic = load(shapes_folder, "panoptic", coco)
    kinds = set()
    for image, segments in zip(instances["images"], panoptic["annotations"], strict=True):
        assert segments["image_id"] == image["id"]
        stem = image["file_name"].removesuffix(".jpg")
        semantic = read(shapes_folder / "annotations" / ade / f"{stem}.png")
        depth = read(shapes_folder / "depth" / ade / f"{stem}.png")
        png = read(shapes_folder / f"annotations/panoptic_{coco}" / segments["file_name"])
        assert read(shapes_folder / coco / image["file_name"]).shape == (96, 128, 3)
        assert (semantic.dtype, semantic.shape) == (np.uint8, (96, 128))
        assert (depth.dtype, depth.shape) == (np.uint16, (96, 128))
        blue, green, red = np.moveaxis(png.astype(np.int64), -1, 0)
        ids = red + 256 * green + 65536 * blue

        by_id = {segment["id"]: segment for segment in segments["segments_info"]}
        assert set(np.unique(ids)) - {0} == set(by_id)
        rebuilt = np.zeros_like(semantic)
        for segment_id, segment in by_id.items():
            rebuilt[ids == segment_id] = segment["category_id"]
        np.testing.assert_array_equal(rebuilt, semantic)

        things = [a for a in instances["annotations"] if a["image_id"] == image["id"]]
        is_thing = [s for s in segments["segments_info"] if s["category_id"] <= len(THINGS)]
        nearest_so_far = 4400
        for thing, segment in zip(things, is_thing, strict=True):
            mask = fill(thing["segmentation"], 96, 128)
            np.testing.assert_array_equal(mask, ids == segment["id"])
            rows, columns = np.nonzero(mask)
            x, y, width, height = thing["bbox"]
            assert (x, x + width - 1) == (columns.min(), columns.max())
            assert (y, y + height - 1) == (rows.min(), rows.max())
            assert thing["area"] == mask.sum()
            for key in ("category_id", "bbox", "area", "iscrowd"):
                assert thing[key] == segment[key]
            # from the farthest to the nearest
            assert depth[mask].max() < nearest_so_far
            nearest_so_far = depth[mask].min()
            kinds.add((type(thing["segmentation"]), thing["iscrowd"]))
        assert depth[semantic > len(THINGS)].min() > 4400
    assert (list, 0) in kinds
    assert (dict, 0) in kinds
    if coco == "train2017":
        assert (dict, 1) in kinds
    assert (list, 1) not in kinds


def test_mattes_make_up_the_picture(shapes_folder, split):
    _, ade, count = split
    mattes = shapes_folder / "matting" / ade
    found = sorted((mattes / "alpha").iterdir())
    assert count - 2 <= len(found) <= count
    for path in found:
        alpha = read(path).astype(float)[..., None] / 255
        foreground = read(mattes / "fg" / f"{path.stem}.jpg")
        background = read(mattes / "bg" / f"{path.stem}.jpg")
        picture = read(shapes_folder / "images" / ade / f"{path.stem}.jpg")
        composed = alpha * foreground + (1 - alpha) * background
        assert np.abs(composed - picture).mean() < 3.0, "the difference of three JPEG files"
        trimap = read(mattes / "trimap" / path.name)
        assert (alpha[trimap == 255] == 1).all()
        assert (alpha[trimap == 0] == 0).all()
