from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

from mmengine.config import Config

from mmdysample.engine.outputs import (
    check_new,
    check_new_directory,
    check_outside_data,
    data_paths,
)
from mmdysample.errors import UserError


def config(**dataset) -> Config:
    return Config(dict(val_dataloader=dict(dataset=dict(type="Data", **dataset))))


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch) -> Path:
    """The current directory, with a directory of data beside it."""
    for name in ("data/images", "data/annotations/panoptic", "here"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data" / "annotations" / "a.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_data_paths(inside):
    cfg = Config(
        dict(
            train_dataloader=dict(
                dataset=dict(
                    type="RepeatDataset",
                    dataset=dict(
                        type="ConcatDataset",
                        datasets=[
                            dict(data_root="../data/", data_prefix=dict(img="images/", seg="gone")),
                            dict(data_root="../other", pipeline=[dict(ann_file="x/y.json")]),
                        ],
                    ),
                )
            ),
            test_evaluator=[
                dict(ann_file="../data/annotations/a.json"),
                dict(seg_prefix="../data/annotations/panoptic", ann_file=None),
            ],
        )
    )
    assert {os.path.normpath(path) for path in data_paths(cfg)} == {
        *("../data", "../data/images", "../data/gone", "../other"),
        *("../data/annotations/a.json", "../data/annotations/panoptic"),
    }


def test_a_data_root_to_work_in():
    """Results may lie in it, but not in the directories of images."""
    cfg = config(data_root=".", data_prefix=dict(img="images"), ann_file="a.json")
    os.mkdir("images")
    check_new("found.pkl", "--out", cfg)
    check_new_directory("drawn", "--out", cfg)
    with pytest.raises(UserError, match="images holds data of the config"):
        check_new_directory("images/drawn", "--out", cfg)


@pytest.mark.parametrize("name", ["new", "empty", "link", "deep/er/new"])
def test_new_places(name):
    os.mkdir("empty")
    os.symlink("empty", "link")
    check_new_directory(name, "--out", config(data_root="../data"))


def test_a_data_directory_under_another_name(inside):
    os.symlink(inside / "data" / "images", "same")
    cfg = config(data_root="same", data_prefix=dict(img=""))
    with pytest.raises(UserError, match="same holds data of the config"):
        check_new_directory(str(inside / "data" / "images" / "new"), "--out", cfg)


@pytest.mark.parametrize("value", [None, 3, ["a"], {"img": 5}, "s3://bucket/images"])
def test_settings_that_name_no_directory(value):
    cfg = config(data_root=value, data_prefix=value, ann_file=value)
    check_new_directory("new", "--out", cfg)


@pytest.mark.parametrize(
    "work_dir", ["../data", "../data/images", "../data/images/new", "../data/annotations", "link/w"]
)
def test_a_work_dir_among_the_data(work_dir):
    os.symlink("../data/images", "link")
    data = dict(data_root="../data", data_prefix=dict(img="images"), ann_file="annotations/a.json")
    with pytest.raises(UserError, match=f"work dir {work_dir}: .* holds data of the config"):
        check_outside_data(work_dir, "work dir", config(**data))


@pytest.mark.parametrize("root", [dict(), dict(data_root="../data")])
def test_a_list_file_protects_itself_alone(inside, root):
    """Not what lies beside it; a data_root is protected as a whole."""
    (inside / "lists").mkdir()
    (inside / "lists" / "a.json").write_text("[]")
    cfg = config(ann_file=str(inside / "lists" / "a.json"), **root)
    check_outside_data("../lists/w", "work dir", cfg)
    check_new_directory("../lists/new", "--out", cfg)
    with pytest.raises(UserError, match=r"work dir \.\./lists/a\.json: .*a\.json holds data"):
        check_outside_data("../lists/a.json", "work dir", cfg)


@pytest.mark.parametrize(
    "dataset",
    [
        dict(data_root="../data", data_prefix=dict(img="images"), ann_file="annotations/a.json"),
        # Around the current directory.
        dict(data_root=".", data_prefix=dict(img="../data/images"), ann_file="a.json"),
        dict(data_root="..", data_prefix=dict(img="data/images")),
        dict(data_root=".", data_prefix=dict(img=""), ann_file="a.json"),
        dict(data_root="./", data_prefix=dict(img=""), ann_file=""),
        dict(data_root="", data_prefix=dict(img="")),
        dict(data_prefix=dict(img=""), ann_file="a.json"),
    ],
)
@pytest.mark.parametrize("work_dir", ["./work_dirs/name", "../data-runs", "w"])
def test_a_work_dir_beside_the_data(work_dir, dataset):
    os.makedirs("w/of/an/earlier/run")
    check_outside_data(work_dir, "work dir", config(**dataset))
