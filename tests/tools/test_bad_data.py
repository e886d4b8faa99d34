"""Bad data gets one clear sentence, exit status 2 and no traceback, whatever the config.

Some of it ended the process by a signal, took all memory or never ended; the rest gave wrong
numbers without a word. The tools are called as a user calls them, with upstream's data sets.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import numpy as np
import torch
from PIL import Image

from tests.engine.toy import draw_data, write_config
from tests.engine.zygote import TEST, TRAIN

MASKS = 'train_pipeline[1]["with_mask"] = True\n'
VALIDATION = 'val_dataloader["dataset"]["ann_file"] = "other.json"\n'
EVALUATION = 'val_evaluator["ann_file"] = "data/other.json"\n'
IN_PROCESS = "train_dataloader.update(num_workers=0, persistent_workers=False)\n"
POLYGON = [5, 5, 30, 5, 30, 30]


def annotations(
    *place: Any, to: Any, file: str = "annotations.json", masks: bool = False
) -> Callable[[Path], object]:
    """Set a value at a place of the annotation file, whose ``file`` is written."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / "data" / "annotations.json").read_text())
        if masks:
            for annotation in content["annotations"]:
                annotation["segmentation"] = [POLYGON]
        inner = content
        for key in place[:-1]:
            inner = inner[key]
        if to is None:
            del inner[place[-1]]
        else:
            inner[place[-1]] = to
        (folder / "data" / file).write_text(json.dumps(content))

    return spoil


def mask(to: Any) -> Callable[[Path], object]:
    return annotations("annotations", 2, "segmentation", to=to, masks=True)


def content(name: str, make: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Change the bytes of a file of the data."""

    def spoil(folder: Path) -> None:
        path = folder / "data" / name
        path.write_bytes(make(path.read_bytes()))

    return spoil


def image(name: str, array: np.ndarray) -> Callable[[Path], object]:
    return lambda folder: Image.fromarray(array).save(folder / "data" / name)


def rename(name: str, to: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "data" / name).rename(folder / "data" / to)


def link(folder: Path) -> None:
    (folder / "data" / "images" / "006.jpg").symlink_to("nowhere.jpg")


def directory(folder: Path) -> None:
    (folder / "data" / "images" / "006.jpg").mkdir()


def huge(_: bytes) -> bytes:
    """A PNG file whose header asks for 30 GB."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(buffer, "PNG")
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    changed = header + struct.pack(">I", zlib.crc32(header))
    start = buffer.getvalue().index(b"IHDR")
    return buffer.getvalue()[:start] + changed + buffer.getvalue()[start + len(changed) :]


def turn(data: bytes) -> bytes:
    """A camera held upright: the pixels lie, and EXIF says to turn them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


@dataclass
class Case:
    """What is spoilt in the folder with ``data/`` and what the sentence has to name."""

    spoil: Callable[[Path], object]
    says: tuple[str, ...]
    family: str = "detector"
    config: str = ""
    script: Path = TRAIN


SEGMENTOR = dict(family="segmentor")
WHO = ("annotations.json", "annotation 3", "image 2")
CASES = {
    # COCO's annotation files
    "class-missing": Case(
        annotations("categories", 0, "name", to="sqare"),
        ("'square'", "metainfo", "annotations.json", "did you mean 'sqare'"),
    ),
    "class-missing-in-validation": Case(
        annotations("categories", 0, "name", to="sqare", file="other.json"),
        ("'square'", "other.json"),
        config=VALIDATION,
    ),
    "class-missing-in-evaluation": Case(
        annotations("categories", 0, "name", to="sqare", file="other.json"),
        ("'square'", "data/other.json"),
        config=EVALUATION,
    ),
    "class-missing-in-test": Case(
        annotations("categories", 0, "name", to="sqare"),
        ("'square'", "annotations.json"),
        script=TEST,
    ),
    "polygon-far-away": Case(
        mask([[5, 5, 1e9, 5, 30, 30]]),
        (*WHO, "far outside"),
        config=MASKS + IN_PROCESS,
    ),
    "polygon-of-nan": Case(
        mask([[5, 5, float("nan"), 5, 30, 30]]), (*WHO, "finite numbers"), config=MASKS
    ),
    "polygon-empty": Case(mask([]), (*WHO, "no mask"), config=MASKS),
    "runs-do-not-add-up": Case(
        mask(dict(size=[72, 56], counts=[0, 4_000_000_000])), WHO, config=MASKS
    ),
    "runs-do-not-add-up-in-evaluation": Case(
        annotations(
            *("annotations", 2, "segmentation"),
            to=dict(size=[72, 56], counts=[0, 10]),
            masks=True,
            file="other.json",
        ),
        ("other.json", "annotation 3", "image 2", "add up to 10"),
        config=EVALUATION,
    ),
    "runs-of-wild-characters": Case(
        mask(dict(size=[72, 56], counts="oooooooooooooooooo")), WHO, config=MASKS
    ),
    "box-of-nan": Case(annotations("annotations", 2, "bbox", to=[1, 2, float("nan"), 4]), WHO),
    "box-missing": Case(annotations("annotations", 2, "bbox", to=None), (*WHO, "'bbox'")),
    "area-is-text": Case(annotations("annotations", 2, "area", to="12"), (*WHO, "'area'")),
    "crowd-missing": Case(
        annotations("annotations", 2, "iscrowd", to=None), (*WHO, "'iscrowd'", "evaluation")
    ),
    "name-of-image-missing": Case(
        annotations("images", 2, "file_name", to=None), ("image 2", "'file_name'")
    ),
    "image-too-large": Case(annotations("images", 2, "width", to=10**9), ("image 2", "pixels")),
    "image-twice": Case(annotations("images", 2, "id", to=1), ("image 1 is more than once",)),
    "annotation-twice": Case(
        annotations("annotations", 2, "id", to=1), ("annotation 1 of image 2 is more than once",)
    ),
    "categories-missing": Case(annotations("categories", to=None), ("'categories'", "COCO")),
    "annotations-are-no-list": Case(annotations("annotations", to={}), ("annotation", "list")),
    # images
    "image-of-another-size": Case(
        image("images/002.jpg", np.zeros((40, 56, 3), np.uint8)),
        ("images/002.jpg", "40x56", "72x56"),
    ),
    "image-turned": Case(
        content("images/001.jpg", turn), ("images/001.jpg", "72x56", "56x72", "EXIF")
    ),
    "image-empty": Case(content("images/002.jpg", lambda data: b""), ("images/002.jpg", "empty")),
    "image-truncated": Case(
        content("images/002.jpg", lambda data: data[:-300]), ("images/002.jpg", "end is missing")
    ),
    "image-is-a-bomb": Case(content("images/002.jpg", huge), ("images/002.jpg", "178,956,970")),
    "image-in-capitals": Case(
        rename("images/002.jpg", "images/002.JPG"), ("images/002.JPG", ".jpg"), **SEGMENTOR
    ),
    "image-is-a-dangling-link": Case(link, ("images/006.jpg", "link"), **SEGMENTOR),
    "image-is-a-directory": Case(directory, ("images/006.jpg", "directory"), **SEGMENTOR),
    # label maps
    "labels-of-16-bits": Case(
        image("labels/002.png", np.full((72, 56), 256, np.uint16)),
        ("labels/002.png", "0 to 255"),
        **SEGMENTOR,
    ),
    "labels-in-colour": Case(
        image("labels/002.png", np.zeros((72, 56, 3), np.uint8)),
        ("labels/002.png", "3 channels"),
        **SEGMENTOR,
    ),
    "labels-are-a-bomb": Case(
        content("labels/002.png", huge), ("labels/002.png", "178,956,970"), **SEGMENTOR
    ),
    "labels-empty": Case(
        content("labels/002.png", lambda data: b""), ("labels/002.png", "empty"), **SEGMENTOR
    ),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A checkpoint that fits the toy detector."""
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    folder = tmp_path_factory.mktemp("checkpoint")
    config = Config.fromfile(write_config("detector", folder, folder / "detector.py"))
    init_default_scope("mmdet")
    state = MODELS.build(config.model).state_dict()
    torch.save(dict(meta={}, state_dict=state), folder / "good.pth")
    return folder / "good.pth"


@pytest.mark.parametrize("name", CASES)
def test_tools(name, zygote, checkpoint, tmp_path):
    case = CASES[name]
    draw_data(tmp_path / "data")
    write_config(case.family, Path("data"), tmp_path / "config.py", case.config)
    case.spoil(tmp_path)
    arguments = [checkpoint] if case.script == TEST else []

    result = zygote.run(case.script, "config.py", *arguments, cwd=tmp_path)

    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.status == 2, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert len(errors) == 1, result.stderr
    assert [part for part in case.says if part not in errors[0]] == [], errors[0]
