"""Lay out Composition-1k, and compose its test images, from what Adobe sends and Pascal VOC.

    python tools/dataset_converters/comp1k.py Combined_Dataset VOC2012/JPEGImages data/comp1k

reads in ADOBE

    Training_set/{Adobe-licensed images,Other}/{fg,alpha}/
    Test_set/Adobe-licensed images/{fg,alpha,trimaps}/
    Test_set/{test_fg_names,test_bg_names}.txt

and writes train/{fg,alpha}/ and test/{merged,alpha,trimap}/. The 20 backgrounds of a test
foreground are the next 20 names of the list; NAME_0, ..., NAME_19 are its images and trimaps.
Everything is checked before; OUT is written whole or not at all, and nothing that it holds is ever
replaced.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from layout import check_out, link, show_progress, system_errors, whole_directory
from PIL import Image

from mmdysample.engine.errors import ArgumentParser, UserError, run_tool
from mmdysample.images import check_image_file, write_image
from mmdysample.mmseg.matting.compositing import composite, cover
from mmdysample.mmseg.matting.dataset import list_images
from mmdysample.mmseg.matting.loading import check_trimap, read_color, read_gray

BACKGROUNDS_EACH = 20
TRAINING = tuple(Path("Training_set", name) for name in ("Adobe-licensed images", "Other"))
TEST = Path("Test_set", "Adobe-licensed images")
LISTS = (Path("Test_set/test_fg_names.txt"), Path("Test_set/test_bg_names.txt"))
WHOLE = (431, 1000)
"""Training foregrounds and test images of Composition-1k."""


class Matte(NamedTuple):
    """A foreground with its alpha."""

    foreground: str
    alpha: str


class Scene(NamedTuple):
    """What a test image is made of."""

    name: str
    matte: Matte
    background: str
    trimap: str


def parse_args() -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n\n")
    parser = ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("adobe", type=Path, metavar="ADOBE", help="the directory Combined_Dataset")
    parser.add_argument("voc", type=Path, metavar="VOC", help="JPEGImages of Pascal VOC 2012")
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="a new or an empty directory, outside of both"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # As Ctrl-C does, `kill` lets the unfinished directory be removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    out = Path(os.path.realpath(args.out))
    with system_errors(out):
        check_out(out, args.adobe, args.voc)
        for name, source in (("ADOBE", args.adobe), ("VOC", args.voc)):
            if not source.is_dir():
                raise UserError(f"{name} {source} is not a directory")
        training = [matte for part in TRAINING for matte in read_mattes(args.adobe / part).items()]
        check_names([name for name, _ in training])
        scenes = read_scenes(args.adobe, args.voc)
        check_sizes(dict(training), scenes)
        check_free_space(out.parent, scenes)
        write(out, dict(training), scenes)
    print(f"{out}: {len(training)} training foregrounds, {len(scenes)} test images")
    if (len(training), len(scenes)) != WHOLE:
        print(f"Composition-1k has {WHOLE[0]} and {WHOLE[1]}: results are not comparable")


def read_mattes(directory: Path) -> dict[str, Matte]:
    """The foregrounds of a directory with ``fg`` and ``alpha``, by name.

    Raises:
        UserError: one of the two is missing, or is not complete.
    """
    foregrounds = list_images(str(directory / "fg"), "foreground")
    alphas = list_images(str(directory / "alpha"), "alpha matte")
    for name in sorted(set(foregrounds) ^ set(alphas)):
        if name in foregrounds:
            raise UserError(f"the foreground {foregrounds[name]} has no alpha matte")
        raise UserError(f"the alpha matte {alphas[name]} has no foreground")
    return {name: Matte(foregrounds[name], alphas[name]) for name in sorted(foregrounds)}


def check_names(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"the training foreground {twice[0]} is in both {TRAINING[0]} and Other")


def read_scenes(adobe: Path, voc: Path) -> list[Scene]:
    """The test images, by the two lists.

    Raises:
        UserError: a list or a file is missing, or the lists do not fit each other.
    """
    foregrounds, backgrounds = (read_names(adobe / path) for path in LISTS)
    if len(backgrounds) != BACKGROUNDS_EACH * len(foregrounds):
        raise UserError(
            f"{adobe / LISTS[1]} has {len(backgrounds)} names, but {BACKGROUNDS_EACH} for each of "
            f"the {len(foregrounds)} in {LISTS[0].name} would be "
            f"{BACKGROUNDS_EACH * len(foregrounds)}"
        )
    mattes = read_mattes(adobe / TEST)
    trimaps = list_images(str(adobe / TEST / "trimaps"), "trimap")
    scenes = []
    for number, background in enumerate(backgrounds):
        foreground = os.path.splitext(foregrounds[number // BACKGROUNDS_EACH])[0]
        name = f"{foreground}_{number % BACKGROUNDS_EACH}"
        if foreground not in mattes:
            raise UserError(
                f"{foregrounds[number // BACKGROUNDS_EACH]} of {adobe / LISTS[0]} is not in "
                f"{adobe / TEST / 'fg'}"
            )
        if name not in trimaps:
            raise UserError(f"{adobe / TEST / 'trimaps'} has no trimap {name}.png")
        path = voc / background
        if not path.is_file():
            raise UserError(f"the background {path} of {adobe / LISTS[1]}: no such file")
        scenes.append(Scene(name, mattes[foreground], str(path), trimaps[name]))
    repeated = len(scenes) - len({scene.name for scene in scenes})
    if repeated:
        raise UserError(f"{adobe / LISTS[0]} names a foreground twice")
    return scenes


def read_names(path: Path) -> list[str]:
    try:
        names = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text"
        raise UserError(f"the list {path} cannot be read: {reason.lower()}") from error
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise UserError(f"the list {path} has no names")
    for name in names:
        if Path(name).name != name:
            raise UserError(f"the list {path} has {name!r:.80}, which is not the name of a file")
    return names


def check_sizes(training: dict[str, Matte], scenes: list[Scene]) -> None:
    """Raise UserError unless each alpha and trimap is of its foreground's size, by the headers."""
    mattes = {*training.values(), *(scene.matte for scene in scenes)}
    pairs = [("alpha matte", matte.alpha, matte.foreground) for matte in sorted(mattes)]
    pairs += [("trimap", scene.trimap, scene.matte.foreground) for scene in scenes]
    for number, (kind, path, foreground) in enumerate(pairs):
        show_progress(f"checked {number} of {len(pairs)}")
        sizes = size_of(path, kind), size_of(foreground, "foreground")
        if sizes[0] != sizes[1]:
            (width, height), (wanted_width, wanted_height) = sizes
            raise UserError(
                f"the {kind} {path} is {height}x{width} (height x width), but its foreground "
                f"{foreground} is {wanted_height}x{wanted_width}"
            )
    backgrounds = sorted({scene.background for scene in scenes})
    for number, background in enumerate(backgrounds):
        show_progress(f"checked {number} of {len(backgrounds)} backgrounds")
        check_image_file(background, "background")
    show_progress("")


def size_of(path: str, kind: str) -> tuple[int, int]:
    """Width and height of an image file that is in order."""
    check_image_file(path, kind)
    with Image.open(path) as image:
        return image.size


def check_free_space(directory: Path, scenes: list[Scene]) -> None:
    needed = 0
    for scene in scenes:
        width, height = size_of(scene.matte.foreground, "foreground")
        needed += 3 * width * height
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise UserError(
            f"{directory} has {free / 1e9:.1f} GB free and the test images may need "
            f"{needed / 1e9:.1f} GB: choose another OUT"
        )


def write(out: Path, training: dict[str, Matte], scenes: list[Scene]) -> None:
    """Link or copy the files to where they belong, and compose the test images."""
    with whole_directory(out) as root:
        for name in ("train/fg", "train/alpha", "test/merged", "test/alpha", "test/trimap"):
            (root / name).mkdir(parents=True)
        for name, matte in training.items():
            place(matte.foreground, root / "train/fg", name)
            place(matte.alpha, root / "train/alpha", name)
        for number, scene in enumerate(scenes):
            show_progress(f"written {number} of {len(scenes)}")
            write_image(root / "test/merged" / f"{scene.name}.png", compose(scene))
            place(scene.matte.alpha, root / "test/alpha", scene.name)
            place(scene.trimap, root / "test/trimap", scene.name)
        show_progress("")


def place(source: str, directory: Path, name: str) -> None:
    """The file in ``directory`` under another name, which may have directories of its own."""
    target = directory / f"{name}{Path(source).suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    link(Path(source), target)


def compose(scene: Scene) -> np.ndarray:
    """The test image (H, W, 3), uint8, BGR: the upper left part of a background large enough.

    Raises:
        UserError: a file cannot be decoded, or is no alpha or no trimap.
    """
    foreground = read_color(scene.matte.foreground, "foreground")
    alpha = read_gray(scene.matte.alpha, "alpha matte")
    check_trimap(read_gray(scene.trimap, "trimap"), f"the trimap {scene.trimap}")
    height, width = alpha.shape
    background = cover(read_color(scene.background, "background"), height, width)
    return composite(foreground, background[:height, :width], alpha)


if __name__ == "__main__":
    sys.exit(run_tool(main))
