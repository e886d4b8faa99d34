"""Depth maps: what passes, and what does not. More is in tools/test_bad_depth.py."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

import cv2
import numpy as np
from PIL import Image

from mmdysample.engine.depth_maps import check_depth, check_depth_directories, check_depth_file
from mmdysample.errors import UserError
from tests.engine.test_labels import directories


def write(path: Path, values: np.ndarray) -> str:
    assert cv2.imwrite(str(path), values)
    return str(path)


def test_files_that_hold_depth(tmp_path):
    for name, dtype in (("a.png", np.uint16), ("a.tiff", np.uint16), ("b.tiff", np.float32)):
        check_depth_file(write(tmp_path / name, np.full((4, 6), 3, dtype)))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros((4, 6), np.uint8), "has 8 bits or less"),
        (np.zeros((4, 6, 3), np.uint16), "has 3 channels"),
        (np.zeros((4, 6, 4), np.uint8), "has 4 channels"),
    ],
)
def test_images_that_are_none(tmp_path, values, says):
    path = write(tmp_path / "a.png", values)
    with pytest.raises(UserError, match=rf"the depth map .*a.png {says}: .* 16 bits and one chan"):
        check_depth_file(path)


@pytest.mark.parametrize("mode", ["1", "P"])
def test_a_palette_is_no_depth(tmp_path, mode):
    Image.new(mode, (6, 4)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="8 bits or less"):
        check_depth_file(str(tmp_path / "a.png"))


def sample(greatest: float, size: tuple[int, ...] = (4, 6)) -> dict:
    depth = np.zeros(size, np.float32)
    depth[1, 2] = greatest
    paths = dict(depth_map_path="a.png", img_path="a.jpg")
    return dict(gt_depth_map=depth, ori_shape=(4, 6), depth_rescale_factor=1e-3, **paths)


@pytest.mark.parametrize("greatest", [0.1001, 0.9, 10.0, 80.0, 655.35, 999.0, 0.0, np.inf, np.nan])
def test_depths_that_may_be_meters(greatest):
    """Close-ups, rooms, streets, rendered skies, and maps in which nothing is known."""
    check_depth(sample(greatest))


@pytest.mark.parametrize("greatest", [0.0099, 0.099, 1001.0, 9990.0])
def test_depths_that_are_in_another_unit(greatest):
    with pytest.raises(UserError, match=rf"in a.png is {greatest:.4g} m with .*=0.001"):
        check_depth(sample(greatest))


def test_sizes():
    with pytest.raises(UserError, match=r"a.png is 6x4 \(height x width\), but its image a.jpg is"):
        check_depth(sample(1.0, (6, 4)))
    alone = sample(1.0, (6, 4))
    del alone["ori_shape"]  # loaded before the image
    check_depth(alone)
    with pytest.raises(UserError, match=r"a.png has 3 channels"):
        check_depth(sample(1.0, (4, 6, 3)))


def data_set(root: Path, images: str, depths: str, **settings):
    found = directories(root, images, depths, **settings)
    found.data_prefix["depth_map_path"] = found.data_prefix.pop("seg_map_path")
    return found


def test_directories_that_pass(tmp_path):
    pairs = data_set(tmp_path, "k_1.jpg sub/2.jpg", "k_1.png sub/2.png note.txt")
    check_depth_directories(pairs, labeled=True)
    # without true depth none is looked for
    check_depth_directories(data_set(tmp_path, "k_3.jpg", ""), labeled=False)
    remote = data_set(tmp_path, "", "")
    remote.data_prefix["img_path"] = "s3://images"
    check_depth_directories(remote, labeled=True)


@pytest.mark.parametrize(
    ("images", "depths", "says"),
    [
        ("1.jpg 2.jpg", "1.png", r"1 of 2 images in .* have no depth map: .*labels/2.png: no such"),
        ("1.jpg", "1.png 2.png", r"1 of 2 depth maps in .* have no image: .*images/2.jpg: no such"),
        ("1.jpg 2.JPG", "1.png 2.png", r"1 of the images .*2.JPG does not end with img_suffix"),
        ("1.jpg a/k.jpg", "1.png a/k.png", r"1 of 2 images have no digit .*images/a/k.jpg"),
        ("4/k.jpg", "4/k.png", r"1 of 1 images have no digit"),  # of a directory does not count
    ],
)
def test_directories_that_do_not(tmp_path, images, depths, says):
    with pytest.raises(UserError, match=f"^{says}"):
        check_depth_directories(data_set(tmp_path, images, depths), labeled=True)


def test_keys(tmp_path):
    given = data_set(tmp_path, "1.jpg", "1.png")
    del given.data_prefix["depth_map_path"]
    with pytest.raises(UserError, match=r"needs the key 'depth_map_path', got {'img_path'"):
        check_depth_directories(given, labeled=True)
    check_depth_directories(given, labeled=False)
    given.ann_file = "train.txt"
    with pytest.raises(UserError, match=r"would ignore ann_file='train.txt'"):
        check_depth_directories(given, labeled=False)
