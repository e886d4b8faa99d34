from __future__ import annotations

import os
import stat

import pytest

from mmdysample.atomic import (
    check_writable,
    remove_abandoned_drafts,
    replacing,
    write_text,
)
from mmdysample.errors import UserError


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


def test_failure_names_the_file(tmp_path):
    """A full disk does not say which file it was."""
    with pytest.raises(OSError) as caught, replacing(tmp_path / "file"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "file")


def test_a_users_file_beside_it_is_kept(tmp_path):
    (tmp_path / "file.tmp").write_text("the user's own")
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file.tmp").read_text() == "the user's own"
    assert sorted(os.listdir(tmp_path)) == ["file", "file.tmp"]


def test_two_writers_have_drafts_of_their_own(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as first:
        with replacing(path) as second:
            first.write_text("first")
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"


def test_links_are_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    for name in ("there", "new"):
        (tmp_path / f"{name}.csv").symlink_to(tmp_path / "again" / f"{name}.csv")
    (tmp_path / "again").symlink_to("disk")
    (tmp_path / "disk" / "there.csv").write_text("old")
    for name in ("there", "new"):
        write_text(tmp_path / f"{name}.csv", "text")
        assert (tmp_path / f"{name}.csv").is_symlink()
        assert not (tmp_path / "disk" / f"{name}.csv").is_symlink()
        assert (tmp_path / "disk" / f"{name}.csv").read_text() == "text"
    assert sorted(os.listdir(tmp_path / "disk")) == ["new.csv", "there.csv"]


def test_permissions_are_kept(tmp_path):
    path = tmp_path / "file"
    umask = os.umask(0o027)
    try:
        write_text(path, "old")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o606)
    write_text(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o606


def test_a_pipe_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=r"--csv .*pipe is not a regular file"):
        check_writable(pipe, "--csv")
    with pytest.raises(UserError, match="pipe is not a regular file"):
        write_text(pipe, "text")
    assert pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]


def in_a_child(work) -> None:
    """Do some work in a process that then ends as a killed one does."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_only_abandoned_drafts_are_removed(tmp_path):
    def work() -> None:
        with replacing(tmp_path / "epoch_1.pth") as draft:
            draft.write_text("half")
            os._exit(0)

    in_a_child(work)
    (abandoned,) = os.listdir(tmp_path)
    users = ["epoch_1.pth.tmp", "epoch_1.pth.backup.tmp", f"iter_1{abandoned[7:]}"]
    for name in users:
        (tmp_path / name).write_text("the user's own")
    with replacing(tmp_path / "epoch_2.pth") as draft:
        draft.write_text("half")
        remove_abandoned_drafts(tmp_path, "epoch_*.pth")
        assert sorted(os.listdir(tmp_path)) == sorted([*users, draft.name])


def test_a_file_that_can_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.csv").write_text("old")
    for path in ("new.csv", "old.csv", tmp_path / "new.csv"):
        check_writable(path, "--csv")
    assert os.listdir(tmp_path) == ["old.csv"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("directory", "--csv directory is a directory"),
        ("no/where.csv", "/no does not exist"),
        ("file/a.csv", "/file is not a directory"),
        ("locked/a.csv", "/locked is not writable"),
        ("locked.csv", "--csv locked.csv is not writable"),
        ("link.csv", "/no does not exist"),
    ],
)
def test_a_file_that_cannot_be_written(path, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("directory", "locked"):
        (tmp_path / name).mkdir()
    for name in ("file", "locked.csv"):
        (tmp_path / name).write_text("")
    (tmp_path / "link.csv").symlink_to("no/where.csv")
    # root may write everywhere, so that permissions would not do
    monkeypatch.setattr(os, "access", lambda place, mode: "locked" not in str(place))
    with pytest.raises(UserError) as error:
        check_writable(path, "--csv")
    assert says in str(error.value) and str(error.value).startswith(f"--csv {path}")


def test_what_is_not_a_table_is_not_replaced_by_one(tmp_path):
    config = tmp_path / "config.py"
    config.write_text("a = 1")
    with pytest.raises(UserError, match=r"--csv .*config.py exists and is not a .csv file"):
        check_writable(config, "--csv")
    check_writable(tmp_path / "new.txt", "--csv")
