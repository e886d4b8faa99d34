"""tools/dataset_converters/layout.py: what the converters share."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from mmdysample.errors import UserError
from tools.dataset_converters.layout import check_out, link, system_errors, whole_directory


def test_where_a_data_set_may_be_laid_out(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "source/below").mkdir(parents=True)
    (tmp_path / "link").symlink_to("source")
    check_out(tmp_path / "new", tmp_path / "source", tmp_path / "not-there")
    check_out(tmp_path / "empty", tmp_path / "source")
    check_out(tmp_path / "source2", tmp_path / "source")
    for out, source, says in (
        ("a/b", "source", "/a does not exist"),
        ("file", "source", "exists and is left as it is"),
        ("source", "other", "exists and is left as it is"),
        ("source/new", "source", "is in .*source, which is read"),
        ("source/below/new", "link", "is in .*link, which is read"),
        ("empty", "empty", "is in .*empty, which is read"),
    ):
        with pytest.raises(UserError, match=says):
            check_out(tmp_path / out, tmp_path / "else", tmp_path / source)


def test_a_directory_is_there_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), whole_directory(out) as root:
        (root / "file").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    with whole_directory(out) as root:
        (root / "file").touch()
        assert list(out.iterdir()) == []
    assert [path.name for path in out.iterdir()] == ["file"] and list(tmp_path.iterdir()) == [out]
    plain = tmp_path / "plain"
    plain.mkdir()
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_what_a_symbolic_link_leads_to_is_linked(tmp_path):
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")
    link(tmp_path / "link", tmp_path / "target")
    assert not (tmp_path / "target").is_symlink()
    assert os.path.samefile(tmp_path / "target", tmp_path / "file")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left"), "cannot use out: No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "cannot use a: Permission"),
        (OSError(errno.EXDEV, "Cross-device", "a", None, "b"), "cannot use b: Cross-device"),
        (OSError("odd"), "cannot use out: odd"),
    ],
)
def test_the_system_refuses(error, says):
    with pytest.raises(UserError, match=says), system_errors(Path("out")):
        raise error
