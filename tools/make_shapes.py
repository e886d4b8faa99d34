"""Draw the Shapes data set: textured, overlapping shapes with exact labels in the usual formats.

    python tools/make_shapes.py data/shapes --train 400 --val 100

writes pictures with COCO boxes, masks and panoptic segments, ADE20K label maps, depth maps and
alpha mattes. The same arguments draw the same data set, on any machine and with any number of
workers, and a picture stays the same when more are drawn.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

try:
    from shapes.files import (
        BYTES_PER_PICTURE,
        BYTES_PER_PIXEL,
        MAX_IMAGES,
        SPLITS,
        Arguments,
        make_folders,
        write_annotations,
    )
    from shapes.folder import ShapesError, is_finished, unfinished
    from shapes.workers import Progress, available_cores, draw_pictures
except ModuleNotFoundError as error:
    print(f"error: {error.name} is not installed: pip install numpy opencv-python", file=sys.stderr)
    sys.exit(2)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence instead of the usage as well."""
        raise ShapesError(f"{message} (see --help)")


def _whole_number(low: int, high: int):
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return value

    return parse


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n\n")
    parser = _Parser(
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="a new or an empty directory")
    images = _whole_number(1, MAX_IMAGES)
    parser.add_argument("--train", type=images, default=400, metavar="N", help="default: 400")
    parser.add_argument("--val", type=images, default=100, metavar="N", help="default: 100")
    parser.add_argument(
        "--size",
        type=_whole_number(32, 4096),
        nargs=2,
        default=(160, 160),
        metavar=("H", "W"),
        help="height and width of the pictures, 32 to 4096 pixels; default: 160 160",
    )
    parser.add_argument(
        "--seed", type=_whole_number(0, 2**63 - 1), default=0, metavar="S", help="default: 0"
    )
    parser.add_argument(
        "--workers",
        type=_whole_number(1, 256),
        default=min(available_cores(), 16),
        metavar="N",
        help="processes that draw; default: as many as there are cores, 16 at most (%(default)s)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace OUT if this tool made everything in it; nothing else is ever replaced",
    )
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    return parser.parse_args(argv)


def check_free_space(out: Path, arguments: Arguments) -> None:
    each = arguments.height * arguments.width * BYTES_PER_PIXEL + BYTES_PER_PICTURE
    needed = (arguments.train + arguments.val) * each
    free = shutil.disk_usage(out.parent).free
    if needed > free:
        raise ShapesError(
            f"{out.parent} has {free / 1e6:.0f} MB free and the data set may need "
            f"{needed / 1e6:.0f} MB: draw fewer or smaller pictures, or choose another OUT"
        )


def draw(out: Path, arguments: Arguments, workers: int, *, overwrite: bool, quiet: bool) -> None:
    records: list[dict[int, dict]] = [{} for _ in SPLITS]
    progress = Progress(arguments.train + arguments.val, quiet)
    with unfinished(out, arguments, overwrite) as partial:
        try:
            make_folders(partial)
            for split, index, record in draw_pictures(partial, arguments, workers):
                records[split][index] = record
                progress.advance()
        finally:
            progress.close()
        for split in SPLITS:
            in_order = [record for _, record in sorted(records[split.number].items())]
            write_annotations(partial, split, in_order)


def run(argv: list[str] | None) -> None:
    options = parse_arguments(argv)
    height, width = options.size
    arguments = Arguments(options.train, options.val, height, width, options.seed)
    # through symbolic links, so that the new folder replaces what a link points to, not the link
    out = Path(os.path.realpath(options.out))
    what = (
        f"{arguments.train} + {arguments.val} pictures of {height}x{width}, seed {arguments.seed}"
    )
    start = time.monotonic()
    try:
        if is_finished(out, arguments, options.overwrite):
            if not options.quiet:
                print(f"{out} is there already: {what}")
            return
        check_free_space(out, arguments)
        draw(
            *(out, arguments, options.workers),
            overwrite=options.overwrite,
            quiet=options.quiet,
        )
    except OSError as error:  # a failing write, unlike a failing open, does not know its file
        where = error.filename or out
        raise ShapesError(f"cannot use {where}: {error.strerror or error}") from error
    if not options.quiet:
        print(f"{out}: {what}, drawn in {time.monotonic() - start:.1f} s")


def _stop(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, _stop)
    try:
        run(argv)
    except ShapesError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: nothing was kept, the same command starts over", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
