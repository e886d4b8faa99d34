"""Lay SUN RGB-D out for semantic segmentation with 37 classes.

    python tools/dataset_converters/sunrgbd.py SOURCE data/sunrgbd

SOURCE holds SUNRGBD/ (the unpacked SUNRGBD.zip of rgbd.cs.princeton.edu) and, of the repository
ankurhanda/sunrgbd-meta-data, the lists sunrgbd_training_images.txt and sunrgbd_testing_images.txt
and labels/, its unpacked sunrgbd_train_test_labels.tar.gz: img-000001.png is of the first image for
testing, and those of training follow. (The official SUNRGBD2Dseg.mat has the same label maps in 64
GB of memory; seg.mat beside each image names objects freely and does not have the 37 classes.)

OUT gets images/{training,validation}/img-N.jpg and annotations/{training,validation}/img-N.png,
hard links where the file system has them. Everything is checked before; OUT is there whole or not
at all, and nothing that it holds is ever replaced.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from layout import check_out, link, show_progress, system_errors, whole_directory
from PIL import Image

from mmdysample.engine.errors import ArgumentParser, UserError, run_tool
from mmdysample.images import check_image_file

CLASSES = 37
IMAGES, LABELS = "SUNRGBD", "labels"
CAMERAS = ("kv1", "kv2", "realsense", "xtion")


class Split(NamedTuple):
    name: str
    list_file: str


# In the order of the label maps' numbers.
SPLITS = (
    Split("validation", "sunrgbd_testing_images.txt"),
    Split("training", "sunrgbd_training_images.txt"),
)


class Sample(NamedTuple):
    """An image, its label map, and where both belong."""

    image: Path
    labels: Path
    split: str


def parse_args() -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n\n")
    parser = ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the unpacked downloads")
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="a new or an empty directory, outside of SOURCE"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # As Ctrl-C does, `kill` lets the unfinished directory be removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    out = Path(os.path.realpath(args.out))
    with system_errors(out):
        check_out(out, args.source)
        samples = find_samples(args.source)
        for number, sample in enumerate(samples):
            show_progress(f"checked {number} of {len(samples)}")
            check_sample(sample)
        write(out, samples)
    counts = ", ".join(
        f"{sum(s.split == split.name for s in samples)} {split.name}" for split in SPLITS
    )
    print(f"{out}: {counts} images")


def find_samples(source: Path) -> list[Sample]:
    """The samples that the lists name.

    Raises:
        UserError: something of SOURCE is missing, or the lists and the label maps differ in number.
    """
    check_layout(source)
    lists = [(split, read_list(source, split)) for split in SPLITS]
    count = sum(len(images) for _, images in lists)
    labels = sorted(path.name for path in (source / LABELS).glob("*.png"))
    expected = [f"img-{number:06d}.png" for number in range(1, count + 1)]
    if labels != expected:
        odd = min(set(labels) ^ set(expected))
        raise UserError(
            f"{source / LABELS} holds {len(labels)} label maps, but the lists name {count} images, "
            f"whose label maps are img-000001.png to {expected[-1]}: {odd} is "
            f"{'missing' if odd in expected else 'none of them'}"
        )
    names = iter(labels)
    return [
        Sample(image, source / LABELS / next(names), split.name)
        for split, images in lists
        for image in images
    ]


def check_layout(source: Path) -> None:
    """UserError that says which of the downloads is not where it is expected."""
    if not source.is_dir():
        raise UserError(f"SOURCE {source} is not a directory")
    images, labels = source / IMAGES, source / LABELS
    if not images.is_dir():
        here = [camera for camera in CAMERAS if (source / camera).is_dir()]
        hint = f": {here[0]} lies in SOURCE itself, give the directory above it" if here else ""
        raise UserError(
            f"{images} is not a directory{hint or ': unpack SUNRGBD.zip in SOURCE'} "
            f"({IMAGES} holds {', '.join(CAMERAS)})"
        )
    for split in SPLITS:
        if not (source / split.list_file).is_file():
            raise UserError(
                f"{source / split.list_file} is not there: it is a file of the repository "
                "ankurhanda/sunrgbd-meta-data, the images in the order of the label maps"
            )
    if not labels.is_dir():
        has_mat = (source / "SUNRGBDtoolbox").is_dir() or any(source.glob("*.mat"))
        why = " (the toolbox's .mat files are not read)" if has_mat else ""
        raise UserError(
            f"{labels} is not a directory{why}: unpack sunrgbd_train_test_labels.tar.gz of the "
            f"repository ankurhanda/sunrgbd-meta-data into SOURCE/{LABELS}"
        )
    nested = [path for path in labels.iterdir() if path.is_dir()]
    if nested and not any(labels.glob("*.png")):
        raise UserError(f"{labels} has no label maps itself: move those of {nested[0]} there")


def read_list(source: Path, split: Split) -> list[Path]:
    """The images of a split, in their order.

    Raises:
        UserError: the list is not text, is empty, or has a line that is no .jpg below SUNRGBD, is
            there twice, or names no file.
    """
    path = source / split.list_file
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file") from error
    images: dict[str, Path] = {}
    for number, text in enumerate(lines, start=1):
        name = text.strip()
        if not name:
            continue
        parts = PurePosixPath(name).parts
        # Of a stranger's list nothing outside of SOURCE is read.
        if parts[0] != IMAGES or ".." in parts or not name.endswith(".jpg"):
            raise UserError(f"{path}, line {number}: {name!a} is no .jpg file below {IMAGES}/")
        if name in images:
            raise UserError(f"{path}, line {number}: {name!a} is there twice")
        images[name] = source / name
        if not images[name].is_file():
            raise UserError(
                f"{path}, line {number}: there is no file {name!a} in {source}: is SUNRGBD.zip "
                "unpacked whole?"
            )
    if not images:
        raise UserError(f"{path} lists no image")
    return list(images.values())


def check_sample(sample: Sample) -> None:
    """UserError unless both files can be read, are of one size, and the labels are 0 to 37."""
    check_image_file(str(sample.image))
    check_image_file(str(sample.labels), "label map", labels=True)
    with Image.open(sample.image) as image, Image.open(sample.labels) as labels:
        if labels.mode not in ("L", "P", "I", "I;16"):
            raise UserError(
                f"the label map {sample.labels} has mode {labels.mode}: a label map is an image of "
                "one channel, or of a palette, whose values are the labels"
            )
        if labels.size != image.size:
            raise UserError(
                f"the label map {sample.labels} is {labels.height}x{labels.width} (height x "
                f"width), but its image {sample.image} is {image.height}x{image.width}: do the "
                "label maps belong to these lists?"
            )
        try:
            highest = int(np.asarray(labels).max())
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(
                f"the label map {sample.labels} cannot be read: it is damaged"
            ) from error
    if highest > CLASSES:
        raise UserError(
            f"the label map {sample.labels} has label {highest}, but SUN RGB-D's are 0, no label, "
            f"to {CLASSES}: label maps of 40 or more classes are others"
        )


def write(out: Path, samples: list[Sample]) -> None:
    """Link or copy the files to where they belong."""
    with whole_directory(out) as root:
        for kind in ("images", "annotations"):
            for split in SPLITS:
                (root / kind / split.name).mkdir(parents=True)
        for number, sample in enumerate(samples):
            show_progress(f"written {number} of {len(samples)}")
            stem = sample.labels.stem
            link(sample.image, root / "images" / sample.split / f"{stem}.jpg")
            link(sample.labels, root / "annotations" / sample.split / f"{stem}.png")
        show_progress("")


if __name__ == "__main__":
    sys.exit(run_tool(main))
