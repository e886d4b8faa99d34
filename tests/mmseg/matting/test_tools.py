"""Matting through the tools: trained, tested, written, drawn, and what they say of bad data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")
pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

import cv2
import numpy as np

from tests.engine.zygote import TEST, TRAIN, shared_zygote
from tests.mmseg.matting.toy import (
    HEIGHT,
    WIDTH,
    draw_data,
    save_checkpoint,
    write,
    write_config,
)
from tests.panels import count, panel
from tests.reference import matting_metrics as reference


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.mark.slow
def test_trained_and_tested(tmp_path):
    data = draw_data(tmp_path / "data")
    # An image without a matte, which the config for Shapes leaves out.
    write(data / "images/999.png", np.zeros((HEIGHT, WIDTH, 3)))
    write_config(tmp_path / "config.py")

    run = shared_zygote().run(TRAIN, "config.py", "--work-dir", "train", cwd=tmp_path)
    assert run.status == 0, run.stderr
    assert "1 images in data/images have no trimap and are left out" in run.stdout + run.stderr
    (log,) = (tmp_path / "train").glob("*/vis_data/scalars.json")
    scores = json.loads(log.read_text().splitlines()[-1])
    assert {"SAD", "MSE", "Grad", "Conn"} < set(scores)
    assert list((tmp_path / "train").glob("best_SAD*.pth"))


@pytest.mark.slow
def test_written_and_drawn(tmp_path):
    data = draw_data(tmp_path / "data")
    write_config(tmp_path / "config.py")
    checkpoint = save_checkpoint(tmp_path / "good.pth")
    arguments = ("--work-dir", "test", "--out", "out", "--show-dir", tmp_path / "drawn")

    run = shared_zygote().run(TEST, "config.py", checkpoint, *arguments, cwd=tmp_path)

    assert run.status == 0, run.stderr
    (log,) = (tmp_path / "test").glob("*/[0-9]*.json")
    scores = json.loads(log.read_text())
    maps = []
    for number in range(4):
        name = f"{number:03d}.png"
        trimap, alpha = (read(data / "matting" / kind / name) for kind in ("trimap", "alpha"))
        image, written = read(data / "images" / name), read(tmp_path / "out" / name)
        # The model predicts the trimap.
        assert written.dtype == np.uint8
        assert np.abs(written.astype(int) - trimap).max() <= 1
        maps.append((written, alpha, trimap))
        drawn = read(tmp_path / "drawn" / name)
        assert count(drawn, HEIGHT, WIDTH) == 5
        parts = [panel(drawn, place, HEIGHT, WIDTH) for place in range(5)]
        assert np.array_equal(parts[0], image)
        for place, values in enumerate((trimap, alpha, written), 1):
            assert np.array_equal(parts[place], np.repeat(values[..., None], 3, axis=2))
        weight = written[..., None] / 255
        plain = weight * image + (1 - weight) * np.array((64, 177, 0))  # BGR
        assert np.abs(parts[4] - plain).max() <= 0.5 + 1e-9
    functions = dict(SAD=reference.sad, MSE=reference.mse, Grad=reference.grad, Conn=reference.conn)
    for name, function in functions.items():
        assert scores[name] == pytest.approx(np.mean([function(*each) for each in maps])), name


@pytest.mark.slow
def test_no_test_time_augmentation(tmp_path):
    draw_data(tmp_path / "data")
    write_config(tmp_path / "config.py")
    checkpoint = save_checkpoint(tmp_path / "good.pth")
    options = ("--tta", "--cfg-options", "test_evaluator.type=mmseg.MattingMetric")
    run = shared_zygote().run(TEST, "config.py", checkpoint, *options, cwd=tmp_path)
    assert run.status == 2
    assert "--tta merges scores of classes, and a matting model predicts alphas" in run.stderr


def remove(name: str) -> Callable[[Path], object]:
    return lambda data: (data / name).unlink()


def pixels(name: str, make: Callable[[np.ndarray], np.ndarray], dtype: type = np.uint8):
    return lambda data: write(data / name, make(read(data / name)), dtype)


def cut(name: str) -> Callable[[Path], object]:
    return lambda data: (data / name).write_bytes((data / name).read_bytes()[:-40])


def empty(name: str) -> Callable[[Path], object]:
    def spoil(data: Path) -> None:
        for path in (data / name).iterdir():
            path.unlink()

    return spoil


def in_color(gray: np.ndarray) -> np.ndarray:
    return np.stack([gray, gray, 255 - gray], axis=2)


def transparent(gray: np.ndarray) -> np.ndarray:
    return np.stack([gray] * 3 + [gray], axis=2)


ALPHA, TRIMAP, IMAGE = "matting/alpha/002.png", "matting/trimap/002.png", "images/002.png"
FRONT, BACK = "matting/fg/002.png", "matting/bg/other-002.png"
STRICT = 'test_dataloader["dataset"]["leave_out_images"] = False\n'
MISSPELT = 'test_dataloader["dataset"]["data_prefix"]["aplha_path"] = "matting/alpha"\n'
ONLY_TWO = 'train_dataloader["dataset"]["indices"] = [2]\n'


class Case(NamedTuple):
    """What is spoilt in the directory of the data, and what the sentence has to name."""

    spoil: Callable[[Path], object]
    says: tuple[str, ...]
    script: Path = TEST
    config: str = ""


CASES = {
    "trimap-missing": Case(remove(TRIMAP), (IMAGE, "has no trimap", "1 of 4")),
    "alpha-missing": Case(remove(ALPHA), (IMAGE, "has no alpha matte", "1 of 4")),
    "image-missing": Case(remove(IMAGE), (TRIMAP, "has no image", "1 of 4")),
    "trimap-and-alpha-missing": Case(
        lambda data: (remove(TRIMAP)(data), remove(ALPHA)(data)),
        (IMAGE, "neither a trimap nor an alpha", "leave_out_images=True"),
        config=STRICT,
    ),
    "trimaps-elsewhere": Case(
        lambda data: (data / "matting/trimap").rename(data / "trimaps"),
        ("data/matting/trimap does not exist", "trimaps"),
    ),
    "trimap-of-another-size": Case(
        pixels(TRIMAP, lambda old: old[:-1]), (TRIMAP, "39x48", IMAGE, "40x48")
    ),
    "trimap-of-other-values": Case(
        pixels(TRIMAP, lambda old: np.where(old == 128, 127, old)), (TRIMAP, "127", "0", "255")
    ),
    "trimap-is-a-mask": Case(
        pixels(TRIMAP, lambda old: np.where(old == 128, 255, old)),
        (TRIMAP, "no unknown pixel (128)", "is it a mask?"),
    ),
    "trimap-in-color": Case(pixels(TRIMAP, in_color), (TRIMAP, "3 channels that differ")),
    "trimap-truncated": Case(cut(TRIMAP), ("trimap", TRIMAP, "its end is missing")),
    "alpha-of-another-size": Case(
        pixels(ALPHA, lambda old: old[:, :-3]), (ALPHA, "40x45", IMAGE, "40x48")
    ),
    "alpha-of-16-bits": Case(
        pixels(ALPHA, lambda old: old * 257.0, np.uint16), (ALPHA, "16 bits", "8 bits")
    ),
    "alpha-in-color": Case(pixels(ALPHA, in_color), (ALPHA, "3 channels that differ")),
    "alpha-as-transparency": Case(pixels(ALPHA, transparent), (ALPHA, "transparency")),
    "alpha-is-text": Case(
        lambda data: (data / ALPHA).write_text("alpha"), ("alpha matte", ALPHA, "known format")
    ),
    "image-truncated": Case(cut(IMAGE), (IMAGE, "its end is missing")),
    "data-prefix-misspelt": Case(
        lambda data: None,
        ("data_prefix of MattingDataset", "alpha_path (optional)", "aplha_path"),
        config=MISSPELT,
    ),
    "foreground-without-alpha": Case(remove(ALPHA), (FRONT, "has no alpha matte", "1 of 4"), TRAIN),
    "alpha-without-foreground": Case(remove(FRONT), (ALPHA, "has no foreground", "1 of 4"), TRAIN),
    "foreground-of-another-size": Case(
        pixels(FRONT, lambda old: old[1:, 1:]), (ALPHA, "40x48", FRONT, "39x47"), TRAIN, ONLY_TWO
    ),
    "foreground-truncated": Case(
        cut(FRONT), ("foreground", FRONT, "its end is missing"), TRAIN, ONLY_TWO
    ),
    "two-foregrounds-of-one-name": Case(
        lambda data: write(data / "matting/fg/002.jpg", np.zeros((4, 4, 3))),
        ("two foregrounds have one name", "002.jpg", "002.png"),
        TRAIN,
    ),
    "no-background": Case(empty("matting/bg"), ("no image in data/matting/bg", "bg_path"), TRAIN),
    "background-is-empty": Case(
        lambda data: [path.write_bytes(b"") for path in (data / "matting/bg").iterdir()],
        ("background data/matting/bg/other-00", "file is empty"),
        TRAIN,
    ),
    "no-foreground": Case(
        lambda data: (empty("matting/fg")(data), empty("matting/alpha")(data)),
        ("ComposedMattingDataset is empty", "data/matting/fg"),
        TRAIN,
    ),
}
FAST = ("trimap-missing", "foreground-truncated")
"""One for each data set in every run of the tests; the others are slow."""


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_bad_data(name, tmp_path):
    case = CASES[name]
    case.spoil(draw_data(tmp_path / "data"))
    write_config(tmp_path / "config.py", extra=case.config)
    arguments = [save_checkpoint(tmp_path / "good.pth")] if case.script == TEST else []

    run = shared_zygote().run(case.script, "config.py", *arguments, cwd=tmp_path)

    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert run.status == 2, run.stderr
    assert "Traceback" not in run.stderr + run.stdout
    assert len(errors) == 1, run.stderr
    assert [part for part in case.says if part not in errors[0]] == [], errors[0]
