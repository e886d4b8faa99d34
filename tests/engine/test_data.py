"""Data sets are built as upstream builds them, after what they read was checked."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import cv2
import mmseg.datasets  # noqa: F401
import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset, Compose
from mmengine.registry import DATASETS, DefaultScope

from mmdysample.engine.data import build_data_set, check_evaluator
from mmdysample.errors import UserError
from tests.engine.toy import write_config


@pytest.fixture
def scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


@pytest.fixture
def data(toy_data, tmp_path) -> Path:
    """A copy of the toy data that a test may spoil."""
    return shutil.copytree(toy_data, tmp_path / "data")


def detector(data: Path) -> dict:
    config = Config.fromfile(write_config("detector", data, data.parent / "detector.py"))
    return config.train_dataloader.dataset.to_dict()


def segmentor(data: Path) -> dict:
    config = Config.fromfile(write_config("segmentor", data, data.parent / "segmentor.py"))
    cfg = config.train_dataloader.dataset.to_dict()
    # From mmdet's scope.
    pipeline = [dict(step, type=f"mmseg.{step['type']}") for step in cfg["pipeline"]]
    return {**cfg, "type": "mmseg.BaseSegDataset", "pipeline": pipeline}


def infos(dataset: BaseDataset) -> list:
    return [dataset.get_data_info(i) for i in range(len(dataset))]


@pytest.mark.parametrize("changes", [{}, dict(lazy_init=True), dict(serialize_data=False)])
@pytest.mark.parametrize("make", [detector, segmentor])
def test_samples_are_those_of_upstream(data, scope, make, changes):
    cfg = make(data) | changes
    before = copy.deepcopy(cfg)
    built, plain = build_data_set(cfg), DATASETS.build(cfg)
    plain.full_init()
    assert type(built) is type(plain)
    assert cfg == before
    assert infos(built) == infos(plain)
    assert built.metainfo == plain.metainfo
    assert vars(built).keys() == vars(plain).keys()
    names = [type(step).__name__ for step in built.pipeline.transforms]
    others = [name for name in names if not name.startswith("Check")]
    assert others == [type(step).__name__ for step in plain.pipeline.transforms]


def test_indices_choose_the_same_samples(data, scope):
    cfg = detector(data) | dict(indices=[3, 1])
    assert infos(build_data_set(cfg)) == infos(DATASETS.build(cfg))


def test_data_sets_inside_of_others_are_checked(data, scope):
    def wrapped(leaf: dict) -> dict:
        joined = dict(type="ConcatDataset", datasets=[detector(data), leaf])
        return dict(type="RepeatDataset", times=2, dataset=joined)

    built = build_data_set(wrapped(detector(data)))
    assert len(built) == 24
    inner = built.dataset.datasets[1]
    assert [type(step).__name__ for step in inner.pipeline.transforms][:4] == [
        "CheckImageFile",
        "LoadImageFromFile",
        "CheckImageSize",
        "LoadAnnotations",
    ]
    with pytest.raises(UserError, match="class 'dis' of metainfo is not among"):
        build_data_set(wrapped(detector(data) | dict(metainfo=dict(classes=("dis", "square")))))


class Plain(BaseDataset):
    """A user's own, which cannot wait with reading."""

    def __init__(self, count: int, transforms: list) -> None:
        self.count = count
        super().__init__(pipeline=transforms, serialize_data=False)

    def load_data_list(self) -> list[dict]:
        return [dict(number=number) for number in range(self.count)]


def test_data_sets_of_others_are_left_alone():
    built = build_data_set(dict(type=Plain, count=2, transforms=[dict]))
    assert [built[i] for i in range(2)] == [dict(number=i, sample_idx=i) for i in range(2)]
    assert build_data_set(built) is built
    with pytest.raises(UserError, match="the data set Plain is empty"):
        build_data_set(dict(type=Plain, count=0, transforms=[]))


def load(data: Path, cfg: dict) -> None:
    dataset = build_data_set(cfg)
    for index in range(len(dataset)):
        dataset[index]


def test_sizes_are_compared_with_the_annotation_file(data, scope):
    content = json.loads((data / "annotations.json").read_text())
    content["images"][4]["width"] += 1
    (data / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"images/004.jpg is 72x56 .*, but 72x57 in .*tions.json"):
        load(data, detector(data))


def test_images_that_may_be_missing_are_passed_over(data, scope):
    """``ignore_empty`` asks for it: mmengine takes another sample instead."""
    cfg = detector(data)
    (data / "images" / "002.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"images/002.jpg cannot be read: the file is empty"):
        load(data, cfg)
    cfg["pipeline"][0]["ignore_empty"] = True
    load(data, cfg)


def test_files_of_another_backend_are_not_looked_for_here(data, scope):
    cfg = detector(data)
    cfg["pipeline"][0]["backend_args"] = dict(backend="http")
    names = [type(step).__name__ for step in build_data_set(cfg).pipeline.transforms]
    assert names[:3] == ["LoadImageFromFile", "CheckImageSize", "LoadAnnotations"]


def test_label_maps_of_test_time_augmentation_are_checked(data, scope):
    config = Config.fromfile(write_config("segmentor", data, data.parent / "config.py"))
    labels = data / "labels" / "003.png"
    cv2.imwrite(str(labels), np.full((56, 72), 256, np.uint16))
    with DefaultScope.overwrite_default_scope("mmseg"):
        cfg = config.test_dataloader.dataset.to_dict() | dict(
            pipeline=config.tta_pipeline, metainfo=config.metainfo
        )
        dataset = build_data_set(cfg)
        assert isinstance(dataset.pipeline, Compose)
        dataset[2]
        with pytest.raises(UserError, match=r"label map .*/003.png has labels .* outside of 0"):
            dataset[3]


def test_metrics_files_are_checked(data, scope):
    path = data / "annotations.json"
    metric = dict(type="CocoMetric", ann_file=str(path), metric="bbox")
    loader = dict(dataset=dict(type="RepeatDataset", times=2, dataset=detector(data)))
    check_evaluator([metric], loader)
    check_evaluator(dict(type="CocoMetric"), loader)
    check_evaluator(None, None)
    with pytest.raises(UserError, match=r"annotation 1 of image 0 in .* has no mask"):
        check_evaluator(metric | dict(metric=["bbox", "segm"]), loader)

    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | dict(categories=content["categories"][:1])))
    with pytest.raises(UserError, match="class 'disk' of metainfo is not among the categories"):
        check_evaluator(metric, loader)
    del content["annotations"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="has no 'annotations'"):
        check_evaluator(metric, loader)
    check_evaluator(metric | dict(format_only=True, outfile_prefix="x"), loader)
    # LVIS has a format of its own.
    check_evaluator(dict(type="LVISMetric", ann_file="nowhere.json"), loader)


def test_a_coco_data_set_without_a_directory_of_images(data, scope):
    with pytest.raises(UserError, match=r"data_prefix of CocoDataset needs the key 'img'"):
        build_data_set(detector(data) | dict(data_prefix=dict(img_path="images")))
