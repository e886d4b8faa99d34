"""tools/make_shapes.py as a user calls it."""

import hashlib
import json
import resource
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs OpenCV: bash tools/setup_env.sh installs it")

import cv2

from mmdysample.engine.errors import run_tool
from tools.shapes.scene import draw_scene

TOOL = Path(__file__).parents[2] / "tools/make_shapes.py"
SMALL = ["--train", "3", "--val", "2", "--size", "48", "64"]


@pytest.fixture
def tool(monkeypatch):
    """The script, which imports what lies beside it."""
    monkeypatch.syspath_prepend(TOOL.parent)
    import make_shapes

    before = signal.signal(signal.SIGTERM, lambda *arguments: pytest.fail("not handled"))
    yield make_shapes
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def make(tool, monkeypatch, capsys):
    """Calls it in this process: exit status, stdout, stderr."""

    def call(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["make_shapes.py", *map(str, arguments)])
        try:
            status = run_tool(tool.main)
        except SystemExit as end:  # argparse's
            status = end.code
        return status, *capsys.readouterr()

    return call


def contents(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def assert_refused(result: tuple[int, str, str], *parts: str) -> None:
    """One sentence on stderr that holds `parts`, and exit status 2."""
    status, stdout, stderr = result
    assert (status, stdout) == (2, "")
    assert stderr.startswith("error: ") and stderr.count("\n") == 1, stderr
    for part in parts:
        assert part in stderr


def test_it_draws_and_the_same_arguments_draw_the_same(make, tmp_path):
    status, stdout, stderr = make(tmp_path / "shapes", *SMALL)
    assert (status, stderr) == (0, "")
    assert stdout.startswith(f"{tmp_path}/shapes: 3 + 2 images of 48x64, seed 0, drawn in")
    assert list(tmp_path.iterdir()) == [tmp_path / "shapes"]
    usual = tmp_path / "usual"
    usual.mkdir()
    assert (tmp_path / "shapes").stat().st_mode == usual.stat().st_mode
    make(tmp_path / "again", *SMALL)
    assert contents(tmp_path / "again") == contents(tmp_path / "shapes")


def test_images_depend_on_seed_split_and_index_alone(make, tmp_path):
    make(tmp_path / "few", *SMALL, "--seed", 5)
    make(tmp_path / "many", *SMALL, "--seed", 5, "--train", 4, "--val", 3)
    few, many = contents(tmp_path / "few"), contents(tmp_path / "many")
    images = [path for path in few if not path.endswith(".json")]
    assert len(images) > 5 * 5
    assert all(few[path] == many[path] for path in images)
    for split, directory, name in [(0, "training", 3), (1, "validation", 10_000_002)]:
        path = tmp_path / f"few/annotations/{directory}/{name:012d}.png"
        expected = draw_scene(5, split, name % 10_000_000 - 1, 48, 64).semantic
        np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), expected)

    def annotations(directory):
        path = tmp_path / directory / "annotations/instances_train2017.json"
        return [a for a in json.loads(path.read_text())["annotations"] if a["image_id"] <= 3]

    assert annotations("few") == annotations("many")


def test_a_second_run_changes_nothing(make, tmp_path):
    out = tmp_path / "shapes"
    make(out, *SMALL)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    status, stdout, _ = make(out, *SMALL)
    assert status == 0
    assert stdout == f"{out} is there already: 3 + 2 images of 48x64, seed 0\n"
    assert_refused(make(out, *SMALL, "--seed", 7), "is not this data set", "seed 7")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("marker", [None, b"\xff\x00 no text", b"[]", "a directory"])
def test_what_it_did_not_make_is_left_alone(make, tmp_path, marker):
    (tmp_path / "thesis.txt").write_text("years of work")
    if marker == "a directory":
        (tmp_path / "shapes.json").mkdir()
    elif marker is not None:
        (tmp_path / "shapes.json").write_bytes(marker)
    before = contents(tmp_path)
    assert_refused(make(tmp_path, *SMALL), str(tmp_path), "is left as it is")
    assert contents(tmp_path) == before


def test_what_comes_while_it_is_drawn_is_left_alone(tool, make, monkeypatch, tmp_path):
    out = tmp_path / "shapes"

    def write_annotations(*arguments):
        out.mkdir(exist_ok=True)
        (out / "thesis.txt").write_text("years of work")

    monkeypatch.setattr(tool, "write_annotations", write_annotations)
    (tmp_path / "shapes.0123abcd.partial").mkdir()
    monkeypatch.setattr(tool, "write_image", lambda *arguments: {})
    assert_refused(make(out, *SMALL), f"cannot use {out}: Directory not empty")
    assert {path.name for path in tmp_path.rglob("*")} == {
        *("shapes", "thesis.txt", "shapes.0123abcd.partial")
    }


def test_an_empty_directory_and_a_link_are_fine(make, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert make(tmp_path / "link", *SMALL)[0] == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "shapes.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["OUT"]),
        (["new", "--train", "0"], ["--train", "'0'", "from 1 to 1000000"]),
        (["new", "--train", "1000001"], ["--train", "'1000001'"]),
        (["new", "--val", "-3"], ["--val"]),
        (["new", "--val", "1e3"], ["--val", "'1e3'"]),
        (["new", "--size", "64"], ["--size"]),
        (["new", "--size", "64", "31"], ["--size", "'31'", "from 32 to 4096"]),
        (["new", "--size", "4097", "64"], ["--size", "'4097'"]),
        (["new", "--seed", "-1"], ["--seed"]),
        (["new", "--colour", "red"], ["--colour"]),
        (["file"], ["file exists and is not this data set"]),
        (["file/new"], ["the directory", "file does not exist"]),
        (["missing/new"], ["the directory", "missing does not exist"]),
        (["x" * 300], ["x" * 300, "File name too long"]),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_bad_arguments(make, monkeypatch, tmp_path, arguments, parts):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    assert_refused(make(*arguments), *parts)
    assert contents(tmp_path) == {"file": hashlib.sha256(b"kept").hexdigest()}


def test_a_disk_that_is_too_small(tool, make, monkeypatch, tmp_path):
    free = 5 * (48 * 64 * tool.BYTES_PER_PIXEL + tool.BYTES_PER_IMAGE)
    monkeypatch.setattr(tool.shutil, "disk_usage", lambda path: SimpleNamespace(free=free - 1))
    assert_refused(make(tmp_path / "shapes", *SMALL), f"{tmp_path} has 0 MB free")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tool.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert make(tmp_path / "shapes", *SMALL)[0] == 0
    written = sum(path.stat().st_size for path in (tmp_path / "shapes").rglob("*.*"))
    assert written < free


def test_progress_on_a_terminal(make, monkeypatch, tmp_path):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    status, _, stderr = make(tmp_path / "shapes", *SMALL)
    assert status == 0
    assert stderr.split("\r\033[K")[1:] == [
        *(f"train2017: {i} of 3" for i in range(3)),
        *(f"val2017: {i} of 2" for i in range(2)),
        "",
    ]


def test_a_failing_write_leaves_nothing(make, tmp_path):
    """A limit on the size of a file stands for a full disk: the write fails in the same place."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        result = make(tmp_path / "shapes", *SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_refused(result, f"cannot use {tmp_path}/shapes: File too large")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_nothing(tool, make, monkeypatch, tmp_path, number):
    out = tmp_path / "shapes"

    def write_annotations(root, split, records):
        assert len(records) == 3
        (partial,) = tmp_path.iterdir()  # a kill that cannot be answered leaves this alone
        assert partial.name.endswith(".partial") and root.is_relative_to(partial)
        signal.raise_signal(number)

    monkeypatch.setattr(tool, "write_annotations", write_annotations)
    status, stdout, stderr = make(out, *SMALL)
    assert (status, stdout, stderr) == (130, "", "\ninterrupted\n")
    assert list(tmp_path.iterdir()) == []
