"""tools/dataset_converters/sunrgbd.py on a small layout like that of the downloads."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs OpenCV: bash tools/setup_env.sh installs it")

from PIL import Image

from mmdysample.engine.errors import run_tool
from tests.engine.zygote import ROOT, TRAIN
from tools.dataset_converters import sunrgbd

TESTING = ("kv2/kinect2data/000002-resize/image/0000103.jpg", "xtion/a/b/image/0000001.jpg")
TRAINING = (
    "kv1/NYUdata/NYU0001/image/NYU0001.jpg",
    "realsense/lg/2014/image/0000103.jpg",
    "kv1/NYUdata/NYU0002/image/NYU0002.jpg",
)
SIZES = [(20, 30), (24, 32), (20, 30), (18, 26), (20, 30)]
"""Of the images, those of testing first."""


def label_map(number: int) -> Path:
    return Path(f"labels/img-{number:06d}.png")


@pytest.fixture
def source(tmp_path) -> Path:
    """Image number n, from 1 on, is of gray 40 n, and its labels are n and 0."""
    root = tmp_path / "source"
    (root / "labels").mkdir(parents=True)
    for number, (name, (height, width)) in enumerate(
        zip(TESTING + TRAINING, SIZES, strict=True), start=1
    ):
        path = root / "SUNRGBD" / name
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((height, width, 3), 40 * number, np.uint8)).save(path)
        labels = np.zeros((height, width), np.uint8)
        labels[height // 2 :] = number
        Image.fromarray(labels).save(root / label_map(number))
    write_lists(root)
    return root


def write_lists(root: Path, testing=TESTING, training=TRAINING) -> None:
    for part, names in (("testing", testing), ("training", training)):
        lines = "".join(f"SUNRGBD/{name}\n" for name in names)
        (root / f"sunrgbd_{part}_images.txt").write_text(lines)


@pytest.fixture
def convert(monkeypatch, capsys):
    """Calls the tool in this process: exit status, stdout, stderr."""
    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sunrgbd.py", *map(str, arguments)])
        try:
            status = run_tool(sunrgbd.main)
        except SystemExit as end:  # argparse's
            status = end.code
        return status, *capsys.readouterr()

    yield call
    signal.signal(signal.SIGTERM, before)


def files(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("links", [True, False], ids=["linked", "copied"])
def test_images_and_label_maps_are_laid_out_by_split(links, source, convert, tmp_path, monkeypatch):
    if not links:
        monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(OSError("no links")))
    before = files(source)
    result = convert(source, tmp_path / "sunrgbd")
    assert result == (0, f"{tmp_path}/sunrgbd: 2 validation, 3 training images\n", "")
    assert files(source) == before
    expected = {}
    for number, name in enumerate(TESTING + TRAINING, start=1):
        split = "validation" if number <= 2 else "training"
        expected[f"images/{split}/img-{number:06d}.jpg"] = before[f"SUNRGBD/{name}"]
        labels = before[f"labels/img-{number:06d}.png"]
        expected[f"annotations/{split}/img-{number:06d}.png"] = labels
    assert files(tmp_path / "sunrgbd") == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "sunrgbd"]


def test_the_data_set_reads_what_is_written(source, convert, tmp_path):
    """Through the config: 37 classes, no label ignored, and the label that was drawn less 1."""
    pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    from mmdysample.engine.data import build_data_set

    convert(source, tmp_path / "sunrgbd")
    cfg = Config.fromfile(ROOT / "configs/_base_/datasets/sunrgbd.py")
    loader = cfg.val_dataloader
    loader.dataset.data_root = f"{tmp_path}/sunrgbd/"
    with DefaultScope.overwrite_default_scope("mmseg"):
        import mmseg.datasets  # noqa: F401 - registers

        dataset = build_data_set(loader.dataset)
        samples = [dataset[n] for n in range(len(dataset))]
    assert len(dataset.metainfo["classes"]) == len(set(dataset.metainfo["classes"])) == 37
    for number, (sample, size) in enumerate(zip(samples, SIZES, strict=False), start=1):
        labels = sample["data_samples"].gt_sem_seg.data[0]
        assert labels.shape == size
        assert (labels[: size[0] // 2] == 255).all()
        assert (labels[size[0] // 2 :] == number - 1).all()


def save(path: str | Path, array: np.ndarray) -> Callable[[Path], object]:
    return lambda root: Image.fromarray(array).save(root / path)


def damaged(content: bytes) -> bytes:
    """A PNG file with other bytes in the place of the compressed pixels."""
    start = content.index(b"IDAT") + 4
    return content[:start] + b"\xff" * 8 + content[start + 8 :]


def unpacked_too_deep(root: Path) -> None:
    (root / "labels").rename(root / "unpacked")
    (root / "labels").mkdir()
    (root / "unpacked").rename(root / "labels/sunrgbd_train_test_labels")


def cameras_in_source(root: Path) -> None:
    (root / "SUNRGBD").rename(root / "moved")
    (root / "moved/kv1").rename(root / "kv1")


BAD = {
    "no-images": (
        lambda root: (root / "SUNRGBD").rename(root / "SUN"),
        ("source/SUNRGBD is not a directory", "unpack SUNRGBD.zip", "kv1, kv2, realsense, xtion"),
    ),
    "one-directory-too-deep": (
        cameras_in_source,
        ("source/SUNRGBD is not a directory", "kv1 lies in SOURCE", "the directory above"),
    ),
    "no-list": (
        lambda root: (root / "sunrgbd_training_images.txt").unlink(),
        ("sunrgbd_training_images.txt is not there", "ankurhanda/sunrgbd-meta-data"),
    ),
    "no-label-maps": (
        lambda root: (root / "labels").rename(root / "maps"),
        ("source/labels is not a directory: unpack",),
    ),
    "the-toolbox-for-label-maps": (
        lambda root: (root / "labels").rename(root / "SUNRGBDtoolbox"),
        ("source/labels is not a directory", ".mat files are not read"),
    ),
    "label-maps-too-deep": (
        unpacked_too_deep,
        ("source/labels has no label maps itself", "labels/sunrgbd_train_test_labels"),
    ),
    "label-map-missing": (
        lambda root: (root / label_map(3)).unlink(),
        ("4 label maps", "5 images", "img-000003.png is missing"),
    ),
    "label-map-too-many": (
        lambda root: (root / label_map(1)).rename(root / label_map(6)),
        ("5 label maps", "img-000001.png is missing"),
    ),
    "another-list": (
        lambda root: write_lists(root, training=TRAINING[:2]),
        ("5 label maps", "4 images", "img-000005.png is none of them"),
    ),
    "empty-list": (lambda root: write_lists(root, testing=()), ("testing_images.txt lists no",)),
    "list-is-no-text": (
        lambda root: (root / "sunrgbd_testing_images.txt").write_bytes(b"\xff\xfe\x00"),
        ("testing_images.txt is not a text file",),
    ),
    "list-leads-outside": (
        lambda root: write_lists(root, testing=("../../secret.jpg", TESTING[1])),
        ("testing_images.txt, line 1", "'SUNRGBD/../../secret.jpg'", "no .jpg file below SUNRGBD/"),
    ),
    "list-is-absolute": (
        lambda root: (root / "sunrgbd_testing_images.txt").write_text("/etc/a.jpg\n"),
        ("line 1", "'/etc/a.jpg'", "below SUNRGBD/"),
    ),
    "list-names-one-twice": (
        lambda root: write_lists(root, testing=(TESTING[0], TESTING[0])),
        ("testing_images.txt, line 2", "is there twice"),
    ),
    "image-missing": (
        lambda root: (root / "SUNRGBD" / TRAINING[2]).unlink(),
        ("training_images.txt, line 3", "NYU0002.jpg", "unpacked whole"),
    ),
    "label-map-of-another-size": (
        save(label_map(4), np.zeros((18, 27), np.uint8)),
        ("labels/img-000004.png is 18x27", "0000103.jpg is 18x26"),
    ),
    "label-map-of-40-classes": (
        save(label_map(5), np.full((20, 30), 38, np.uint8)),
        ("labels/img-000005.png has label 38", "0, no label, to 37"),
    ),
    "label-map-in-color": (
        save(label_map(5), np.zeros((20, 30, 3), np.uint8)),
        ("labels/img-000005.png has mode RGB", "one channel"),
    ),
    "label-map-of-16-bits": (
        save(label_map(2), np.full((24, 32), 300, np.uint16)),
        ("labels/img-000002.png", "0 to 255"),
    ),
    "label-map-truncated": (
        lambda root: (root / label_map(2)).write_bytes((root / label_map(2)).read_bytes()[:60]),
        ("labels/img-000002.png cannot be read",),
    ),
    "label-map-damaged": (
        lambda root: (root / label_map(2)).write_bytes(damaged((root / label_map(2)).read_bytes())),
        ("labels/img-000002.png cannot be read: it is damaged",),
    ),
    "image-truncated": (
        lambda root: (root / "SUNRGBD" / TESTING[0]).write_bytes(
            (root / "SUNRGBD" / TESTING[0]).read_bytes()[:-10]
        ),
        ("0000103.jpg cannot be read: its end is missing",),
    ),
    "source-missing": (lambda root: root.rename(root.with_name("x")), ("is not a directory",)),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_and_nothing_is_written(name, source, convert, tmp_path):
    spoil, says = BAD[name]
    spoil(source)
    status, stdout, stderr = convert(source, tmp_path / "sunrgbd")
    assert (status, stdout) == (2, "")
    assert stderr.startswith("error: ") and stderr.count("\n") == 1, stderr
    assert [part for part in says if part not in stderr] == [], stderr
    assert not (tmp_path / "sunrgbd").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_nothing_is_replaced(source, convert, tmp_path):
    out = tmp_path / "sunrgbd"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    status, _, stderr = convert(source, out)
    assert status == 2 and "exists and is left as it is" in stderr
    assert files(out) == {"mine.txt": b"mine"}
    (out / "mine.txt").unlink()
    assert convert(source, out)[0] == 0 and len(files(out)) == 10
    status, _, stderr = convert(source, tmp_path / "a/b")
    assert status == 2 and "/a does not exist" in stderr
    status, _, stderr = convert(source, source / "sunrgbd")
    assert status == 2 and f"is in {source}, which is read" in stderr


def test_an_interrupt_leaves_nothing(source, convert, tmp_path, monkeypatch):
    def interrupt(source: Path, target: Path) -> None:
        if target.name == "img-000004.png":
            raise KeyboardInterrupt
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr(sunrgbd, "link", interrupt)
    assert convert(source, tmp_path / "sunrgbd")[0] == 130
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


MAPS = Path("annotations/training")
BAD_FOR_TRAINING = {
    "not-prepared": (lambda root: root.rename(root.with_name("x")), ("images/training cannot be",)),
    "label-38": (
        save(MAPS / "img-000003.png", np.full((20, 30), 38, np.uint8)),
        ("img-000003.png has label 37", "37 classes, 0 to 36"),
    ),
    "label-map-missing": (
        lambda root: (root / MAPS / "img-000004.png").unlink(),
        ("1 of 3 images", "annotations/training/img-000004.png: no such file"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD_FOR_TRAINING)
def test_training_says_what_is_wrong_with_the_data(name, source, convert, zygote, tmp_path):
    """What was changed after it was laid out."""
    pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")
    spoil, says = BAD_FOR_TRAINING[name]
    (tmp_path / "data").mkdir()
    convert(source, tmp_path / "data/sunrgbd")
    spoil(tmp_path / "data/sunrgbd")
    options = [
        "model.backbone.init_cfg=None",
        "train_dataloader.num_workers=0",
        "train_dataloader.persistent_workers=False",
        "train_dataloader.batch_size=3",
        # from the maps as they are to a crop: the images are small
        "train_dataloader.dataset.pipeline.3.crop_size=(16,16)",
    ]
    config = ROOT / "configs/segnet/segnet_vgg16_nearest_1xb8-200e_sunrgbd.py"
    result = zygote.run(TRAIN, config, "--cfg-options", *options, cwd=tmp_path)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.status == 2, result.stderr
    assert "Traceback" not in result.stderr and len(errors) == 1
    assert [part for part in says if part not in errors[0]] == [], errors[0]
