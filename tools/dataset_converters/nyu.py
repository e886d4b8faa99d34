"""Lay NYU Depth V2 out as mmseg's NYUDataset reads it.

    python tools/dataset_converters/nyu.py SOURCE data/nyu

SOURCE holds the lists nyu_train.txt and nyu_test.txt that BTS and the Monocular Depth Estimation
Toolbox use, and the files that these name: each line has an image, its depth map and, not needed
here, a focal length, as in

    /kitchen_0028b/rgb_00045.jpg /kitchen_0028b/sync_depth_00045.png 518.8579

The files are looked for in SOURCE itself, then in SOURCE/sync for training and in
SOURCE/official_splits/test for testing, where BTS keeps them. OUT gets
images/{train,test}/kitchen_0028b_00045.jpg and annotations/{train,test}/kitchen_0028b_00045.png:
hard links where the file system has them, so that SOURCE stays as it is. Before, every depth map is
read whole and every image's header, which takes minutes; OUT is there whole or not at all, and
nothing that it holds is ever replaced.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import cv2
from layout import check_out, link, show_progress, system_errors, whole_directory
from PIL import Image

from mmdysample.engine.depth_maps import check_depth, check_depth_file
from mmdysample.engine.errors import ArgumentParser, UserError, run_tool
from mmdysample.images import check_image_file

IMAGE, DEPTH = re.compile(r"rgb_(\d+)\.jpg"), re.compile(r"sync_depth_(\d+)\.png")


class Split(NamedTuple):
    name: str
    #: where below SOURCE the files are looked for
    places: tuple[str, ...]

    @property
    def list_file(self) -> str:
        return f"nyu_{self.name}.txt"


SPLITS = (Split("train", ("", "sync")), Split("test", ("", "official_splits/test")))


class Pair(NamedTuple):
    """An image, its depth map, and where both belong."""

    image: Path
    depth: Path
    split: str
    #: such as kitchen_0028b_00045
    name: str


def parse_args() -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n\n")
    parser = ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the unpacked download")
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
        check_lists(args.source)
        pairs = [pair for split in SPLITS for pair in read_list(args.source, split)]
        for number, pair in enumerate(pairs):
            show_progress(f"checked {number} of {len(pairs)}")
            check_pair(pair)
        write(out, pairs)
    counts = [f"{sum(p.split == split.name for p in pairs):,} {split.name}" for split in SPLITS]
    print(f"{out}: {', '.join(counts)} pairs (the papers have 24,231 train, 654 test)")


def check_lists(source: Path) -> None:
    """UserError that says which list is not where it is expected."""
    if source.suffix in (".zip", ".mat", ".tar", ".gz") and source.is_file():
        why = "has neither the synchronized training images nor the lists"
        hint = why if source.suffix == ".mat" else "unpack it and give the directory"
        raise UserError(f"SOURCE {source} is a file: {hint}")
    if not source.is_dir():
        raise UserError(f"SOURCE {source} is not a directory")
    for split in SPLITS:
        path = source / split.list_file
        if path.is_file():
            continue
        below = next(iter(sorted(source.glob(f"*/{split.list_file}"))), None)
        hint = (
            f": it lies in {below.parent}, give that directory"
            if below
            else f": the list of the {split.name} pairs, an image and a depth map on each line"
        )
        raise UserError(f"{path} is not there{hint}")


def read_list(source: Path, split: Split) -> Iterator[Pair]:
    """The pairs of a split, in their order.

    Raises:
        UserError: the list is not text, is empty, or has a line that does not name an image and its
            depth map, that is there twice, or whose files are not there.
    """
    path = source / split.list_file
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file") from error
    seen: dict[str, int] = {}
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        where = f"{path}, line {number}"
        image, depth, name = parse_line(text, where)
        if name in seen:
            raise UserError(f"{where}: {name} was on line {seen[name]} already")
        seen[name] = number
        files = [find_file(source, split, each, where) for each in (image, depth)]
        yield Pair(*files, split.name, name)
    if not seen:
        raise UserError(f"{path} lists no pair")


def parse_line(text: str, where: str) -> tuple[PurePosixPath, PurePosixPath, str]:
    """Image, depth map and the name that both get, of a line of a list."""
    fields = [PurePosixPath(field.strip("/")) for field in text.split()[:2]]
    numbers = [
        pattern.fullmatch(field.name)
        for pattern, field in zip((IMAGE, DEPTH), fields, strict=False)
    ]
    if len(numbers) < 2 or not all(numbers):
        raise UserError(
            f"{where}: {text.strip()[:80]!a} is not of the form SCENE/rgb_NUMBER.jpg "
            "SCENE/sync_depth_NUMBER.png"
        )
    image, depth = fields
    # Of a stranger's list nothing outside of SOURCE is read.
    if ".." in (*image.parts, *depth.parts) or len(image.parts) < 2:
        raise UserError(f"{where}: {str(image)!a} is not a file in the directory of a scene")
    if image.parent != depth.parent or numbers[0][1] != numbers[1][1]:
        raise UserError(f"{where}: {image} and {depth} do not belong together")
    return image, depth, f"{image.parent.name}_{numbers[0][1]}"


def find_file(source: Path, split: Split, name: PurePosixPath, where: str) -> Path:
    for place in split.places:
        path = source / place / name
        if path.is_file():
            if not path.resolve().is_relative_to(source.resolve()):
                raise UserError(
                    f"{where}: {path} leads to {path.resolve()}, outside of SOURCE: put the file "
                    "itself there, or give the directory that has all of them"
                )
            return path
    looked = " and ".join(str(source / place) for place in split.places)
    raise UserError(f"{where}: there is no file {str(name)!a} in {looked}")


def check_pair(pair: Pair) -> None:
    """UserError unless both files can be read and have one size, and the depth is in millimeters.

    Of the image the header is read, which says its size.
    """
    check_image_file(str(pair.image))
    check_depth_file(str(pair.depth))
    with Image.open(pair.image) as image, Image.open(pair.depth) as depth:
        if image.size != depth.size:
            raise UserError(
                f"the depth map {pair.depth} is {depth.height}x{depth.width} (height x width), but "
                f"its image {pair.image} is {image.height}x{image.width}"
            )
    depth = cv2.imread(str(pair.depth), cv2.IMREAD_UNCHANGED)
    if depth is None:
        raise UserError(f"the depth map {pair.depth} cannot be read: it is damaged")
    sample = dict(gt_depth_map=depth * 1e-3, depth_map_path=pair.depth, depth_rescale_factor=1e-3)
    check_depth(sample)


def write(out: Path, pairs: list[Pair]) -> None:
    """Link or copy the files to where they belong."""
    with whole_directory(out) as root:
        for kind in ("images", "annotations"):
            for split in SPLITS:
                (root / kind / split.name).mkdir(parents=True)
        for number, pair in enumerate(pairs):
            show_progress(f"written {number} of {len(pairs)}")
            link(pair.image, root / "images" / pair.split / f"{pair.name}.jpg")
            link(pair.depth, root / "annotations" / pair.split / f"{pair.name}.png")
        show_progress("")


if __name__ == "__main__":
    sys.exit(run_tool(main))
