"""Bad data gets one clear sentence, exit status 2 and no traceback, whatever the config.

Some of it ended the process by a signal, took all memory or never ended; the rest gave wrong
numbers without a word. The tools are called as a user calls them, with upstream's data sets, once
for each place where data are checked; tests of these places have what else can be wrong.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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


def without_square(content: dict) -> None:
    content["categories"][0]["name"] = "sqare"


def with_mask(mask: Any) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        for annotation in content["annotations"]:
            annotation["segmentation"] = [POLYGON]
        content["annotations"][2]["segmentation"] = mask

    return change


def annotations(change: Callable[[dict], object], file: str = "annotations.json"):
    def spoil(data: Path) -> None:
        content = json.loads((data / "annotations.json").read_text())
        change(content)
        (data / file).write_text(json.dumps(content))

    return spoil


def image(name: str, make: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda data: (data / name).write_bytes(make((data / name).read_bytes()))


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def huge(_: bytes) -> bytes:
    """A PNG file whose header asks for 30 GB."""
    content = png(np.zeros((4, 4, 3), np.uint8))
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    changed = header + struct.pack(">I", zlib.crc32(header))
    start = content.index(b"IHDR")
    return content[:start] + changed + content[start + len(changed) :]


def turn(content: bytes) -> bytes:
    """A camera held upright: the pixels lie, and EXIF says to turn them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.open(io.BytesIO(content)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


class Case(NamedTuple):
    """What is spoilt in the directory of the data, and what the sentence has to name."""

    spoil: Callable[[Path], object]
    says: tuple[str, ...]
    family: str = "detector"
    config: str = ""
    script: Path = TRAIN


WHO = ("annotation 3", "image 2")
CASES = {
    "class-missing": Case(
        annotations(without_square),
        ("'square'", "metainfo", "annotations.json", "did you mean 'sqare'"),
    ),
    "class-missing-in-validation": Case(
        annotations(without_square, "other.json"), ("'square'", "other.json"), config=VALIDATION
    ),
    "class-missing-in-evaluation": Case(
        annotations(without_square, "other.json"),
        ("'square'", "data/other.json"),
        config=EVALUATION,
    ),
    "class-missing-in-test": Case(
        annotations(without_square), ("'square'", "annotations.json"), script=TEST
    ),
    "polygon-far-away": Case(
        annotations(with_mask([[5, 5, 1e9, 5, 30, 30]])),
        (*WHO, "annotations.json", "far outside"),
        config=MASKS + IN_PROCESS,
    ),
    "runs-do-not-add-up-in-evaluation": Case(
        annotations(with_mask(dict(size=[72, 56], counts=[0, 10])), "other.json"),
        (*WHO, "other.json", "run lengths", "4032 pixels"),
        config=EVALUATION,
    ),
    "image-turned": Case(
        image("images/001.jpg", turn), ("images/001.jpg", "72x56", "56x72", "EXIF")
    ),
    "image-truncated": Case(
        image("images/002.jpg", lambda content: content[:-300]),
        ("images/002.jpg", "end is missing"),
    ),
    "image-is-a-bomb": Case(image("images/002.jpg", huge), ("images/002.jpg", "178,956,970")),
    "image-in-capitals": Case(
        lambda data: (data / "images/002.jpg").rename(data / "images/002.JPG"),
        ("images/002.JPG", ".jpg"),
        family="segmentor",
    ),
    "labels-of-16-bits": Case(
        image("labels/002.png", lambda _: png(np.full((72, 56), 256, np.uint16))),
        ("labels/002.png", "0 to 255"),
        family="segmentor",
    ),
    "labels-in-colour": Case(
        image("labels/002.png", lambda _: png(np.zeros((72, 56, 3), np.uint8))),
        ("labels/002.png", "3 channels"),
        family="segmentor",
    ),
}


FAST = ("image-truncated", "labels-of-16-bits")
"""One damaged image and one bad label map for every run of the tests; the others are slow."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A checkpoint that fits the toy detector."""
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    directory = tmp_path_factory.mktemp("checkpoint")
    config = Config.fromfile(write_config("detector", directory, directory / "detector.py"))
    init_default_scope("mmdet")
    state = MODELS.build(config.model).state_dict()
    torch.save(dict(meta={}, state_dict=state), directory / "good.pth")
    return directory / "good.pth"


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_tools(name, zygote, request, tmp_path):
    case = CASES[name]
    draw_data(tmp_path / "data")
    write_config(case.family, Path("data"), tmp_path / "config.py", case.config)
    case.spoil(tmp_path / "data")
    arguments = [request.getfixturevalue("checkpoint")] if case.script == TEST else []

    result = zygote.run(case.script, "config.py", *arguments, cwd=tmp_path)

    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.status == 2, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert len(errors) == 1, result.stderr
    assert [part for part in case.says if part not in errors[0]] == [], errors[0]
