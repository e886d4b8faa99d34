"""Draw the Shapes data set: textured, overlapping shapes with exact labels in the usual formats.

    python tools/make_shapes.py data/shapes --train 400 --val 100

writes images with COCO boxes, masks and panoptic segments, ADE20K label maps, depth maps and alpha
mattes. The same arguments draw the same data set on any machine, and an image stays the same when
more are drawn. OUT is there whole or not at all, and nothing that it holds is ever replaced.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from shapes.files import (
    BYTES_PER_IMAGE,
    BYTES_PER_PIXEL,
    MARKER,
    MAX_IMAGES,
    SPLITS,
    Arguments,
    write_annotations,
    write_image,
)

from mmdysample.engine.errors import ArgumentParser, UserError, run_tool


def whole_number(low: int, high: int):
    """A type for argparse."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


def parse_args() -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n\n")
    parser = ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    images = whole_number(1, MAX_IMAGES)
    parser.add_argument("out", type=Path, metavar="OUT", help="a new or an empty directory")
    parser.add_argument("--train", type=images, default=400, metavar="N", help="images (400)")
    parser.add_argument("--val", type=images, default=100, metavar="N", help="images (100)")
    parser.add_argument(
        "--size",
        type=whole_number(32, 4096),
        nargs=2,
        default=(160, 160),
        metavar=("H", "W"),
        help="height and width of the images, 32 to 4096 pixels (160 160)",
    )
    parser.add_argument("--seed", type=whole_number(0, 2**63 - 1), default=0, help="(0)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # As Ctrl-C does, `kill` lets the unfinished directory be removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments = Arguments(args.train, args.val, *args.size, args.seed)
    # Symbolic links are followed: the new directory replaces what a link points to, not the link.
    out = Path(os.path.realpath(args.out))
    start = time.monotonic()
    try:
        if is_finished(out, arguments):
            print(f"{out} is there already: {arguments}")
            return
        check_free_space(out.parent, arguments)
        draw(out, arguments)
    except OSError as error:  # a failing write, unlike a failing open, does not know its file
        where = error.filename2 or error.filename or out
        raise UserError(f"cannot use {where}: {error.strerror or error}") from error
    print(f"{out}: {arguments}, drawn in {time.monotonic() - start:.1f} s")


def is_finished(out: Path, arguments: Arguments) -> bool:
    """Whether ``out`` holds what ``arguments`` draw.

    Raises:
        UserError: it cannot be made, or holds anything else.
    """
    if not out.parent.is_dir():
        raise UserError(
            f"the directory {out.parent} does not exist: make it first, or choose another OUT"
        )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    marker = out / MARKER
    if marker.is_file() and marker.read_bytes() == arguments.marker():
        return True
    raise UserError(
        f"{out} exists and is not this data set ({arguments}): it is left as it is, choose a new "
        "or an empty directory"
    )


def check_free_space(directory: Path, arguments: Arguments) -> None:
    each = arguments.height * arguments.width * BYTES_PER_PIXEL + BYTES_PER_IMAGE
    needed = (arguments.train + arguments.val) * each
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise UserError(
            f"{directory} has {free / 1e6:.0f} MB free and the data set may need "
            f"{needed / 1e6:.0f} MB: draw fewer or smaller images, or choose another OUT"
        )


def draw(out: Path, arguments: Arguments) -> None:
    """Draw beside ``out`` and rename: only a killed process leaves its `OUT.*.partial` behind."""
    with tempfile.TemporaryDirectory(".partial", f"{out.name}.", out.parent) as partial:
        root = Path(partial, "shapes")
        root.mkdir()  # with the usual permissions, which a temporary directory does not have
        for split, count in zip(SPLITS, (arguments.train, arguments.val), strict=True):
            records = []
            for index in range(count):
                show_progress(f"{split.coco}: {index} of {count}")
                records.append(write_image(root, arguments, split, index))
            write_annotations(root, split, records)
        show_progress("")
        (root / MARKER).write_bytes(arguments.marker())
        root.rename(out)


def show_progress(text: str) -> None:
    """Rewrites a line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_tool(main))
