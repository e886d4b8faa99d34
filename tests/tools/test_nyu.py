"""tools/dataset_converters/nyu.py as a user calls it, on a few images in BTS's layout."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import cv2
import numpy as np

from mmdysample.engine.errors import run_tool
from tests.engine.zygote import ROOT

TOOL = ROOT / "tools" / "dataset_converters" / "nyu.py"
PAIRS = {
    "train": [("kitchen_0028b", 45), ("kitchen_0028b", 0), ("bath_room", 45)],
    "test": [("kitchen", 3)],
}
PLACES = {"train": "sync", "test": "official_splits/test"}


@pytest.fixture
def convert(monkeypatch, capsys, tmp_path):
    """Calls the tool in this process, in a new directory: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(TOOL.parent)
    spec = importlib.util.spec_from_file_location("nyu_converter", TOOL)
    tool = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, tool)
    spec.loader.exec_module(tool)
    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nyu.py", *map(str, arguments)])
        try:
            status = run_tool(tool.main)
        except SystemExit as end:  # argparse's
            status = end.code
        return status, *capsys.readouterr()

    call.tool = tool
    yield call
    signal.signal(signal.SIGTERM, before)


def draw(source: Path, places: dict[str, str]) -> Path:
    """The lists, and the files that they name below ``source/place``."""
    number = 0
    for split, pairs in PAIRS.items():
        lines = []
        for scene, index in pairs:
            number += 1
            directory = source / places[split] / scene
            directory.mkdir(parents=True, exist_ok=True)
            image, depth = f"rgb_{index:05d}.jpg", f"sync_depth_{index:05d}.png"
            cv2.imwrite(str(directory / image), np.full((6, 8, 3), number, np.uint8))
            cv2.imwrite(str(directory / depth), np.full((6, 8), 1000 + number, np.uint16))
            lines.append(f"/{scene}/{image} /{scene}/{depth} 518.8579\n")
        (source / f"nyu_{split}.txt").write_text("".join(lines) + "\n")
    return source


@pytest.mark.parametrize("places", [PLACES, dict(train="", test="")], ids=["bts", "one-directory"])
def test_layout(convert, places):
    source = draw(Path("raw"), places)
    before = sorted(source.rglob("*"))
    status, out, err = convert(source, "nyu")
    assert (status, err) == (0, "")
    assert "3 train, 1 test pairs" in out
    names = {
        "train/kitchen_0028b_00045": 1,
        "train/kitchen_0028b_00000": 2,
        "train/bath_room_00045": 3,
        "test/kitchen_00003": 4,
    }
    files = [path for path in Path("nyu").rglob("*") if path.is_file()]
    assert len(files) == 2 * len(names)
    for name, number in names.items():
        depth = cv2.imread(f"nyu/annotations/{name}.png", cv2.IMREAD_UNCHANGED)
        assert depth.dtype == np.uint16 and (depth == 1000 + number).all()
        assert abs(int(cv2.imread(f"nyu/images/{name}.jpg")[0, 0, 0]) - number) <= 1
    original = source / places["train"] / "bath_room" / "rgb_00045.jpg"
    assert os.path.samefile(original, "nyu/images/train/bath_room_00045.jpg")  # a hard link
    assert sorted(source.rglob("*")) == before


def test_what_is_written_is_read(convert):
    """By the data sets of the config, with the checks in front."""
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    import mmdysample.mmseg  # noqa: F401 - registers the transforms
    from mmdysample.engine.data import build_data_set

    convert(draw(Path("raw"), PLACES), "data/nyu")  # its parent is not there
    Path("data").mkdir()
    assert convert("raw", "data/nyu")[0] == 0
    cfg = Config.fromfile(ROOT / "configs" / "_base_" / "datasets" / "nyu_416x544.py")
    with DefaultScope.overwrite_default_scope("mmseg"):
        for loader, count in ((cfg.train_dataloader, 3), (cfg.test_dataloader, 1)):
            assert len(build_data_set(loader.dataset)) == count
        sample = build_data_set(cfg.test_dataloader.dataset)[0]["data_samples"]
    assert sample.gt_depth_map.data.unique().tolist() == [pytest.approx(1.004)]


def test_scenes_of_nyu_are_known_to_the_data_set(convert):
    """mmseg takes the name of the scene from the file name that the converter makes."""
    from mmseg.datasets import NYUDataset

    convert(draw(Path("raw"), PLACES), "nyu")
    data = NYUDataset(
        data_root="nyu", data_prefix=dict(img_path="images/test", depth_map_path="annotations/test")
    )
    (only,) = (data.get_data_info(index) for index in range(len(data)))
    assert NYUDataset.METAINFO["classes"][only["category_id"]] == "kitchen"


def first_line(text: str):
    def change(source: Path) -> None:
        path = source / "nyu_train.txt"
        path.write_text(text + "\n" + path.read_text())

    return change


def file(name: str, array: np.ndarray):
    def change(source: Path) -> None:
        path = source / "sync" / "kitchen_0028b" / name
        assert path.is_file() and cv2.imwrite(str(path), array)

    return change


def move_down(source: Path) -> None:
    source.rename("moved")
    source.mkdir()
    Path("moved").rename(source / "nyu")


def damage(source: Path) -> None:
    path = source / "sync" / "kitchen_0028b" / "sync_depth_00000.png"
    noise = np.random.default_rng(0).integers(1000, 2000, (6, 8)).astype(np.uint16)
    assert cv2.imwrite(str(path), noise)
    content = path.read_bytes()
    middle = content.index(b"IDAT") + 8
    path.write_bytes(content[:middle] + bytes(20) + content[middle + 20 :])


def lead_outside(source: Path) -> None:
    path = source / "sync" / "kitchen_0028b" / "sync_depth_00000.png"
    outside = Path.cwd().parent / "nyu-elsewhere.png"
    path.rename(outside)
    path.symlink_to(outside)


PAIR = "a/rgb_1.jpg a/sync_depth_1.png"
WRONG = {
    "no-list": (lambda s: (s / "nyu_test.txt").unlink(), ("nyu_test.txt is not there", "test")),
    "a-level-too-high": (move_down, ("raw/nyu_train.txt is not there", "it lies in raw/nyu")),
    "empty-list": (
        lambda s: (s / "nyu_test.txt").write_text("\n"),
        ("nyu_test.txt lists no pair",),
    ),
    "binary-list": (
        lambda s: (s / "nyu_test.txt").write_bytes(b"\xff\xfe\x00"),
        ("nyu_test.txt is not a text file",),
    ),
    "another-list": (
        first_line("kitchen_00045.jpg kitchen_00045.png"),
        ("nyu_train.txt, line 1", "SCENE/rgb_NUMBER.jpg"),
    ),
    "one-file-in-a-line": (first_line("a/rgb_1.jpg"), ("line 1", "SCENE/rgb_NUMBER.jpg")),
    "not-below": (
        first_line("../a/rgb_1.jpg ../a/sync_depth_1.png"),
        ("line 1", "directory of a scene"),
    ),
    "no-scene": (first_line("rgb_1.jpg sync_depth_1.png"), ("line 1", "directory of a scene")),
    "not-a-pair": (first_line("a/rgb_1.jpg a/sync_depth_2.png"), ("line 1", "do not belong")),
    "not-a-pair-of-scenes": (first_line("a/rgb_1.jpg b/sync_depth_1.png"), ("do not belong",)),
    "twice": (
        first_line("/bath_room/rgb_00045.jpg /bath_room/sync_depth_00045.png"),
        ("line 4", "bath_room_00045 was on line 1 already"),
    ),
    "no-file": (first_line(PAIR), ("line 1", "no file 'a/rgb_1.jpg' in raw and raw/sync")),
    "damaged": (
        lambda s: (s / "sync/kitchen_0028b/rgb_00045.jpg").write_bytes(b"\xff\xd8\xff"),
        ("rgb_00045.jpg cannot be read",),
    ),
    "8-bits": (
        file("sync_depth_00045.png", np.ones((6, 8), np.uint8)),
        ("sync_depth_00045.png has 8 bits",),
    ),
    "colors": (
        file("sync_depth_00000.png", np.ones((6, 8, 3), np.uint16)),
        ("sync_depth_00000.png has 3 channels",),
    ),
    "size": (
        file("sync_depth_00045.png", np.ones((8, 6), np.uint16)),
        ("sync_depth_00045.png is 8x6 (height x width)", "rgb_00045.jpg is 6x8"),
    ),
    "damaged-depth": (damage, ("sync_depth_00000.png cannot be read: it is damaged",)),
    "outside": (
        lead_outside,
        ("line 2", "sync_depth_00000.png leads to /", "nyu-elsewhere.png, outside of SOURCE"),
    ),
    "meters": (  # of the second pair
        file("sync_depth_00000.png", np.full((6, 8), 3, np.uint16)),
        ("greatest depth in", "0.003 m", "1e-3 for millimeters"),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_layout(convert, name):
    change, says = WRONG[name]
    source = draw(Path("raw"), PLACES)
    change(source)
    status, out, err = convert(source, "nyu")
    assert (status, out) == (2, ""), err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert [part for part in says if part not in err] == [], err
    assert sorted(path.name for path in Path().iterdir()) == ["raw"]


def test_arguments(convert):
    source = draw(Path("raw"), PLACES)
    Path("nyu.zip").touch()
    assert "nyu.zip is a file: unpack it" in convert("nyu.zip", "nyu")[2]
    assert "SOURCE nowhere is not a directory" in convert("nowhere", "nyu")[2]
    assert "the directory" in convert(source, "a/b/nyu")[2]
    Path("full").mkdir()
    Path("full/file").write_text("a user's")
    assert "full exists and is left as it is" in convert(source, "full")[2]
    assert [path.name for path in Path("full").iterdir()] == ["file"]
    assert "raw/nyu is in raw, which is read" in convert(source, "raw/nyu")[2]


def test_an_interrupt_leaves_nothing_behind(convert, monkeypatch):
    source = draw(Path("raw"), PLACES)
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(convert.tool, "link", interrupted)
    status, *_ = convert(source, "nyu")
    assert status not in (0, None) and len(calls) == 3
    assert sorted(path.name for path in Path().iterdir()) == ["raw"]


def test_without_hard_links(convert, monkeypatch):
    source = draw(Path("raw"), PLACES)

    def refuse(*arguments):
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    assert convert(source, "nyu")[0] == 0
    original = source / "sync" / "bath_room" / "rgb_00045.jpg"
    copy = Path("nyu/images/train/bath_room_00045.jpg")
    assert copy.read_bytes() == original.read_bytes()
    assert not os.path.samefile(original, copy)
