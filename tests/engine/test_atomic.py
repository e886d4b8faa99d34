from __future__ import annotations

import os

import pytest

from mmdysample.engine.atomic import check_writable, replacing, write_text
from mmdysample.engine.errors import UserError


def test_replaces_at_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failure_keeps_the_old(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as draft:
        draft.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_draft_of_a_killed_run_is_overwritten(tmp_path):
    (tmp_path / "file.tmp").write_text("a longer draft that a kill left behind")
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_can_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.csv").write_text("old")
    for path in ("new.csv", "old.csv", tmp_path / "new.csv"):
        check_writable(path, "--csv")
    assert os.listdir(tmp_path) == ["old.csv"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("folder", "--csv folder is a folder"),
        ("no/where.csv", "/no does not exist"),
        ("file/a.csv", "/file is no folder"),
        ("locked/a.csv", "/locked is not writable"),
    ],
)
def test_a_file_that_cannot_be_written(path, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("folder", "locked"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    # root may write everywhere, so that permissions would not do
    monkeypatch.setattr(os, "access", lambda place, mode: "locked" not in str(place))
    with pytest.raises(UserError) as error:
        check_writable(path, "--csv")
    assert says in str(error.value) and str(error.value).startswith(f"--csv {path}")
