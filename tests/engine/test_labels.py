"""Label maps: their size, labels at the limits, and that every image has one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

import numpy as np

from mmdysample.engine.labels import CheckLabelMap, check_directories
from mmdysample.errors import UserError


def results(label: int = 0, size: tuple[int, int] = (4, 6)) -> dict:
    labels = np.zeros(size, np.uint8)
    labels[1, 2] = label
    return dict(gt_seg_map=labels, ori_shape=(4, 6), seg_map_path="a.png", img_path="a.jpg")


def test_labels_of_the_classes_and_the_ignored_one_pass():
    """MaskFormer would train a label of num_classes as 'nothing'."""
    check = CheckLabelMap(3, 255)
    for label in (0, 2, 255):
        given = results(label)
        assert check(given) is given
    for label in (3, 254):
        says = f"a.png has label {label}, .* 3 classes, 0 to 2, and 255"
        with pytest.raises(UserError, match=says):
            check(results(label))
    assert CheckLabelMap(None, 255)(results(254))
    assert CheckLabelMap(3, 9)(results(9))
    assert check({}) == {}  # an image without labels


@pytest.mark.parametrize("size", [(4, 7), (5, 6), (6, 4)])
def test_another_size_is_refused(size):
    says = rf"a.png is {size[0]}x{size[1]} \(height x width\), but its image a.jpg is 4x6"
    with pytest.raises(UserError, match=says):
        CheckLabelMap(3, 255)(results(size=size))


def test_labels_that_are_loaded_before_the_image():
    """Their size has nothing to be compared with."""
    given = results(2, size=(5, 6))
    del given["ori_shape"]
    assert CheckLabelMap(3, 255)(given) is given
    with pytest.raises(UserError, match=r"a\.png has label 2"):
        CheckLabelMap(2, 255)(given)


def test_several_channels_are_refused():
    """Colours are not labels; mmseg would train on three label maps in one."""
    given = results() | dict(gt_seg_map=np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(UserError, match=r"a.png has 3 channels: a label map is an image of one"):
        CheckLabelMap(3, 255)(given)


def directories(
    root: Path, images: str, labels: str, suffixes: tuple[str, str] = (".jpg", ".png"), **settings
) -> SimpleNamespace:
    """A data set of the files of these names; ``a/`` is a directory, ``a>`` a link to nothing."""
    for name, names in (("images", images), ("labels", labels)):
        (root / name).mkdir(exist_ok=True)
        for file in names.split():
            path = root / name / file.rstrip("/>")
            path.parent.mkdir(parents=True, exist_ok=True)
            if file.endswith("/"):
                path.mkdir()
            elif file.endswith(">"):
                path.symlink_to("nothing")
            else:
                path.touch()
    prefix = dict(img_path=str(root / "images"), seg_map_path=str(root / "labels"))
    return SimpleNamespace(
        **dict(
            data_prefix=prefix,
            img_suffix=suffixes[0],
            seg_map_suffix=suffixes[1],
            backend_args=None,
            ann_file="",
        )
        | settings
    )


CITYSCAPES = ("_leftImg8bit.png", "_gtFine_labelTrainIds.png")


@pytest.mark.parametrize(
    ("images", "labels", "suffixes"),
    [
        ("a.jpg b.jpg", "a.png b.png", (".jpg", ".png")),
        ("a.jpg sub/b.jpg", "a.png sub/b.png", (".jpg", ".png")),
        ("a.jpg Thumbs.db README.txt .hidden.JPG .DS_Store", "a.png b.txt", (".jpg", ".png")),
        ("a.jpg a.JPG a.png", "a.png", (".jpg", ".png")),
        ("a.jpg depth/a.png other.png", "a.png", (".jpg", ".png")),
        (
            "x/a_leftImg8bit.png x/b_leftImg8bit.png",
            "x/a_gtFine_labelTrainIds.png x/a_gtFine_color.png x/a_gtFine_polygons.json "
            "x/b_gtFine_labelTrainIds.png x/b_gtFine_labelIds.png",
            CITYSCAPES,
        ),
    ],
    ids=["plain", "below", "others", "twice", "depth", "cityscapes"],
)
def test_layouts_that_pass(tmp_path, images, labels, suffixes, caplog):
    check_directories(directories(tmp_path, images, labels, suffixes), labeled=True)


@pytest.mark.parametrize(
    ("images", "labels", "suffixes", "says"),
    [
        (
            "a.jpg b.JPG c.JPG",
            "a.png b.png",
            (".jpg", ".png"),
            "2 .*/b.JPG does not end with img_s",
        ),
        ("a.jpg b.jpeg", "a.png b.png", (".jpg", ".png"), "1 .*/b.jpeg does not end with img_suff"),
        ("a.jpg b.png", "a.png b.png", (".jpg", ".png"), "1 .*/b.png does not end with img_suffix"),
        ("a.jpg b.jpg>", "a.png b.png", (".jpg", ".png"), "1 .*/b.jpg is a link to nothing"),
        ("a.jpg b.jpg/", "a.png b.png", (".jpg", ".png"), "1 .*/b.jpg is a directory"),
        ("x/a.JPG", "x/a.png", (".jpg", ".png"), "1 of the images .*/images/x/a.JPG does not end"),
        (
            "x/a_leftImg8bit.png x/b_leftImg8bit.jpg",
            "x/a_gtFine_labelTrainIds.png x/b_gtFine_labelTrainIds.png",
            CITYSCAPES,
            "1 of the images .*b_leftImg8bit.jpg does not end with img_suffix='_leftImg8bit.png'",
        ),
        ("a.jpg b.jpg", "a.png", (".jpg", ".png"), "1 of 2 images .*/labels/b.png: no such file"),
        ("a.jpg b.jpg", "a.png b.png>", (".jpg", ".png"), "1 of 2 images .*/b.png: no such file"),
    ],
)
def test_images_are_not_left_out_in_silence(tmp_path, images, labels, suffixes, says):
    with pytest.raises(UserError, match=f"^{says}"):
        check_directories(directories(tmp_path, images, labels, suffixes), labeled=True)


def test_images_without_labels(tmp_path):
    """A test set: its images need no label maps, but none is left out."""
    plain = directories(tmp_path, "a.jpg b.png", "")
    check_directories(plain, labeled=False)
    plain.data_prefix = dict(img_path=plain.data_prefix["img_path"])
    check_directories(plain, labeled=True)
    (tmp_path / "images" / "c.JPG").touch()
    with pytest.raises(UserError, match=r"c.JPG does not end with img_suffix='\.jpg'"):
        check_directories(plain, labeled=True)


def test_label_maps_beside_the_images(tmp_path):
    given = directories(tmp_path, "a.jpg a.png b.png", "")
    given.data_prefix["seg_map_path"] = given.data_prefix["img_path"]
    check_directories(given, labeled=True)


def test_a_directory_that_is_not_there(tmp_path):
    given = directories(tmp_path, "", "")
    given.data_prefix["img_path"] = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"nowhere cannot be read: no such file or directory$"):
        check_directories(given, labeled=True)
    check_directories(directories(tmp_path, "", "", data_prefix=dict(img_path="s3://x")), True)


def test_a_list_of_images_leaves_out_on_purpose(tmp_path):
    given = directories(tmp_path, "a.jpg b.JPG", "a.png b.png", ann_file=str(tmp_path / "list.txt"))
    with pytest.raises(UserError, match=r"the list of images .*/list.txt: no such file$"):
        check_directories(given, labeled=True)
    (tmp_path / "list.txt").write_text("a\n")
    check_directories(given, labeled=True)
