"""tools/dataset_converters/comp1k.py on a made-up layout of Adobe's data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")
pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

import cv2
import numpy as np

from tests.engine.zygote import ROOT, shared_zygote

TOOL = ROOT / "tools" / "dataset_converters" / "comp1k.py"
TRAINING, TEST = "adobe/Training_set", "adobe/Test_set"
ARGUMENTS = ("adobe", "voc", "out")
SHAPE = (12, 20)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels.astype(np.uint8))


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.fixture
def layout(tmp_path) -> Path:
    """Two test foregrounds with 20 backgrounds each, and one training foreground in each part."""
    random = np.random.default_rng(0)
    alpha = np.tile(np.linspace(0, 255, SHAPE[1]).round(), (SHAPE[0], 1))
    trimap = np.full(SHAPE, 128)
    for part, name in (("Adobe-licensed images", "cat"), ("Other", "dog")):
        write(
            tmp_path / TRAINING / part / "fg" / f"{name}.jpg", random.integers(0, 256, (*SHAPE, 3))
        )
        write(tmp_path / TRAINING / part / "alpha" / f"{name}.png", alpha)
    foregrounds, backgrounds = ["elf.png", "fox.png"], []
    for number, name in enumerate(foregrounds):
        test = tmp_path / TEST / "Adobe-licensed images"
        write(test / "fg" / name, random.integers(0, 256, (*SHAPE, 3)))
        write(test / "alpha" / name, alpha)
        for place in range(20):
            write(test / "trimaps" / f"{name[:-4]}_{place}.png", trimap)
            background = f"2008_{number}{place:02d}.png"
            # Some larger than the foreground, one smaller.
            size = (6, 30) if (number, place) == (1, 3) else (15, 25)
            write(tmp_path / "voc" / background, random.integers(0, 256, (*size, 3)))
            backgrounds.append(background)
    (tmp_path / TEST / "test_fg_names.txt").write_text("\n".join(foregrounds) + "\n")
    (tmp_path / TEST / "test_bg_names.txt").write_text("\r\n".join(backgrounds))
    return tmp_path


@pytest.mark.slow
def test_composed(layout):
    run = shared_zygote().run(TOOL, *ARGUMENTS, cwd=layout)
    assert run.status == 0, run.stderr
    assert "out: 2 training foregrounds, 40 test images" in run.stdout
    assert "Composition-1k has 431 and 1000" in run.stdout
    names = {str(path.relative_to(layout / "out")) for path in (layout / "out").rglob("*.*")}
    scenes = [f"{name}_{place}.png" for name in ("elf", "fox") for place in range(20)]
    assert names == {
        *("train/fg/cat.jpg", "train/fg/dog.jpg", "train/alpha/cat.png", "train/alpha/dog.png"),
        *(f"test/{kind}/{name}" for kind in ("merged", "alpha", "trimap") for name in scenes),
    }
    test = layout / TEST / "Adobe-licensed images"
    foreground, alpha = read(test / "fg/fox.png"), read(test / "alpha/fox.png")
    weight = alpha[..., None] / 255
    # The 8th background of the second foreground, at its upper left corner.
    background = read(layout / "voc/2008_107.png")[:12, :20]
    expected = weight * foreground + (1 - weight) * background
    assert np.abs(read(layout / "out/test/merged/fox_7.png") - expected).max() <= 0.5 + 1e-9
    # 6x30 doubled to be 12x60.
    background = read(layout / "voc/2008_103.png")
    doubled = cv2.resize(background, (60, 12), interpolation=cv2.INTER_CUBIC)[:, :20]
    expected = weight * foreground + (1 - weight) * doubled
    assert np.abs(read(layout / "out/test/merged/fox_3.png") - expected).max() <= 0.5 + 1e-9
    # Read as the config reads it.
    from mmdysample.mmseg.matting import ComposedMattingDataset, MattingDataset

    prefix = dict(img_path="test/merged", trimap_path="test/trimap", alpha_path="test/alpha")
    assert len(MattingDataset(data_root=str(layout / "out"), data_prefix=prefix)) == 40
    prefix = dict(fg_path="train/fg", alpha_path="train/alpha", bg_path="../voc")
    assert len(ComposedMattingDataset(data_root=str(layout / "out"), data_prefix=prefix)) == 2

    again = shared_zygote().run(TOOL, *ARGUMENTS, cwd=layout)
    assert again.status == 2
    assert "exists and is left as it is" in again.stderr
    inside = shared_zygote().run(TOOL, "adobe", "voc", "voc/out", cwd=layout)
    assert inside.status == 2
    assert "voc/out is in voc, which is read" in inside.stderr


def remove(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).unlink()


def crop(name: str) -> Callable[[Path], object]:
    return lambda root: write(root / name, read(root / name)[1:])


def text(name: str, change: Callable[[str], str]) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(change((root / name).read_text()))


IMAGES = f"{TEST}/Adobe-licensed images"
BAD = {
    "no-such-directory": (
        lambda root: (root / "voc").rename(root / "vok"),
        ("VOC voc is not a directory",),
    ),
    "no-other": (
        lambda root: (root / TRAINING / "Other").rename(root / "Other"),
        ("foregrounds", "Training_set/Other/fg does not exist"),
    ),
    "no-list": (remove(f"{TEST}/test_bg_names.txt"), ("test_bg_names.txt", "no such file")),
    "empty-list": (text(f"{TEST}/test_fg_names.txt", lambda _: "\n"), ("has no names",)),
    "lists-do-not-fit": (
        text(f"{TEST}/test_fg_names.txt", lambda old: "elf.png"),
        ("has 40 names", "would be 20"),
    ),
    "foreground-listed-twice": (
        text(f"{TEST}/test_fg_names.txt", lambda old: "elf.png\nelf.png"),
        ("twice",),
    ),
    "path-in-the-list": (
        text(f"{TEST}/test_bg_names.txt", lambda old: old.replace("2008_000", "../2008_000")),
        ("'../2008_000.png'", "not the name of a file"),
    ),
    "test-foreground-missing": (
        lambda root: (
            remove(f"{IMAGES}/fg/fox.png")(root),
            remove(f"{IMAGES}/alpha/fox.png")(root),
        ),
        ("fox.png", "is not in"),
    ),
    "foreground-without-alpha": (
        remove(f"{TRAINING}/Other/alpha/dog.png"),
        ("Other/fg/dog.jpg has no alpha matte",),
    ),
    "alpha-without-foreground": (
        remove(f"{IMAGES}/fg/fox.png"),
        ("alpha/fox.png has no foreground",),
    ),
    "trimap-missing": (remove(f"{IMAGES}/trimaps/fox_19.png"), ("no trimap fox_19.png",)),
    "background-missing": (remove("voc/2008_103.png"), ("background voc/2008_103.png", "no such")),
    "alpha-of-another-size": (
        crop(f"{TRAINING}/Other/alpha/dog.png"),
        ("dog.png is 11x20", "dog.jpg is 12x20"),
    ),
    "trimap-of-another-size": (crop(f"{IMAGES}/trimaps/elf_4.png"), ("elf_4.png is 11x20",)),
    "one-name-in-both-parts": (
        lambda root: [
            path.rename(path.with_stem("cat")) for path in (root / TRAINING / "Other").glob("*/*")
        ],
        ("cat is in both",),
    ),
    "background-truncated": (
        lambda root: (root / "voc/2008_103.png").write_bytes(
            (root / "voc/2008_103.png").read_bytes()[:-20]
        ),
        ("voc/2008_103.png", "its end is missing"),
    ),
    "trimap-is-a-mask": (
        lambda root: write(root / IMAGES / "trimaps/fox_1.png", np.full(SHAPE, 255)),
        ("fox_1.png has no unknown pixel",),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_bad_layout(name, layout):
    spoil, says = BAD[name]
    spoil(layout)
    before = sorted(layout.rglob("*"))
    run = shared_zygote().run(TOOL, *ARGUMENTS, cwd=layout)
    assert run.status == 2, run.stderr
    assert "Traceback" not in run.stderr
    (error,) = (line for line in run.stderr.splitlines() if line.startswith("error: "))
    assert [part for part in says if part not in error] == [], error
    assert sorted(layout.rglob("*")) == before
