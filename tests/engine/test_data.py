"""Data sets are built as upstream builds them, after what they read was checked."""

from __future__ import annotations

import copy
import functools
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
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope

from mmdysample.engine.data import build_data_set, check_evaluator
from mmdysample.errors import UserError
from tests.engine.toy import CONFIGS


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


@pytest.fixture
def data(toy_data, tmp_path) -> Path:
    """A copy of the toy data that a test may spoil."""
    return shutil.copytree(toy_data, tmp_path / "data")


@functools.cache
def toy_config(family: str) -> Config:
    return Config.fromfile(CONFIGS / f"{family}.py")


def detector(data: Path) -> dict:
    cfg = toy_config("detector").train_dataloader.dataset.to_dict()
    return copy.deepcopy(cfg) | dict(data_root=str(data))


def segmentor(data: Path) -> dict:
    """Named from mmdet's scope."""
    cfg = toy_config("segmentor").train_dataloader.dataset.to_dict()
    pipeline = [dict(step, type=f"mmseg.{step['type']}") for step in cfg["pipeline"]]
    return cfg | dict(type="mmseg.BaseSegDataset", data_root=str(data), pipeline=pipeline)


def infos(dataset: BaseDataset) -> list:
    return [dataset.get_data_info(i) for i in range(len(dataset))]


def transforms(dataset: BaseDataset) -> list[str]:
    return [type(transform).__name__ for transform in dataset.pipeline.transforms]


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (detector, dict(indices=[3, 1])),
        (detector, dict(serialize_data=False)),
        (segmentor, dict(lazy_init=True)),
    ],
)
def test_samples_are_those_of_upstream(data, make, changes):
    cfg = make(data) | changes
    before = copy.deepcopy(cfg)
    built, plain = build_data_set(cfg), DATASETS.build(cfg)
    plain.full_init()
    assert type(built) is type(plain)
    assert cfg == before
    assert infos(built) == infos(plain)
    assert built.metainfo == plain.metainfo
    assert vars(built).keys() == vars(plain).keys()
    others = [name for name in transforms(built) if not name.startswith("Check")]
    assert others == transforms(plain)


def test_data_sets_inside_of_others_are_checked(data):
    def wrapped(leaf: dict) -> dict:
        joined = dict(type="ConcatDataset", datasets=[detector(data), leaf])
        return dict(type="RepeatDataset", times=2, dataset=joined)

    built = build_data_set(wrapped(detector(data)))
    assert len(built) == 24
    for inner in built.dataset.datasets:
        assert transforms(inner)[:4] == [
            "CheckImageFile",
            "LoadImageFromFile",
            "CheckImageSize",
            "LoadAnnotations",
        ]
    with pytest.raises(UserError, match="class 'dis' of metainfo is not among"):
        build_data_set(wrapped(detector(data) | dict(metainfo=dict(classes=("dis", "square")))))


def test_one_config_named_twice_is_checked_once(data):
    leaf = detector(data)
    built = build_data_set(dict(type="ConcatDataset", datasets=[leaf, leaf]))
    assert len(built) == 12
    for inner in built.datasets:
        assert transforms(inner) == transforms(build_data_set(leaf))


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


def test_filters_that_leave_nothing(data):
    with pytest.raises(UserError, match=r"CocoDataset is empty: no sample in .*passes filter_cfg="):
        build_data_set(detector(data) | dict(filter_cfg=dict(min_size=1000)))


def load(cfg: dict) -> None:
    dataset = build_data_set(cfg)
    for index in range(len(dataset)):
        dataset[index]


def test_masks_and_annotations_are_needed_where_they_are_read(data):
    cfg = detector(data)
    cfg["pipeline"][1]["with_mask"] = True
    with pytest.raises(UserError, match=r"annotation 1 of image 0 in .*json has no mask"):
        build_data_set(cfg)
    content = json.loads((data / "annotations.json").read_text())
    del content["annotations"]
    (data / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="has no 'annotations'"):
        build_data_set(detector(data))
    assert len(build_data_set(detector(data) | dict(test_mode=True, filter_cfg=None))) == 6


def test_sizes_are_compared_with_the_annotation_file(data):
    content = json.loads((data / "annotations.json").read_text())
    content["images"][4]["width"] += 1
    (data / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"images/004.jpg is 72x56 .*, but 72x57 in .*tions.json"):
        load(detector(data))


def test_images_that_may_be_missing_are_passed_over(data):
    """``ignore_empty`` asks for it: mmengine takes another sample instead."""
    cfg = detector(data)
    (data / "images" / "002.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"images/002.jpg cannot be read: the file is empty"):
        load(cfg)
    cfg["pipeline"][0]["ignore_empty"] = True
    load(cfg)


def test_files_of_another_backend_are_not_looked_for_here(data):
    cfg = detector(data)
    cfg["pipeline"][0]["backend_args"] = dict(backend="http")
    names = transforms(build_data_set(cfg))
    assert names[:3] == ["LoadImageFromFile", "CheckImageSize", "LoadAnnotations"]


def test_segments_are_checked_where_they_are_loaded(data):
    """mmdet's data sets say nothing of labels that do not count."""
    cfg = detector(data)
    cfg["data_prefix"]["seg"] = "labels"
    cfg["pipeline"][1]["with_seg"] = True
    (data / "labels" / "002.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"the map of segments .*/002.png cannot be read"):
        load(cfg)
    cfg["pipeline"][1]["with_seg"] = False
    load(cfg)


@pytest.mark.parametrize("augmented", [False, True])
def test_label_maps_are_checked(data, augmented):
    """In the branches of test-time augmentation as well."""
    config = toy_config("segmentor")
    pipeline = config.tta_pipeline if augmented else config.test_pipeline
    cfg = config.test_dataloader.dataset.to_dict()
    cfg |= dict(data_root=str(data), pipeline=pipeline, metainfo=config.metainfo)
    labels = str(data / "labels" / "003.png")
    with DefaultScope.overwrite_default_scope("mmseg"):
        dataset = build_data_set(cfg)
        dataset[3]
        cv2.imwrite(labels, np.full((56, 72), 256, np.uint16))
        with pytest.raises(UserError, match=r"label map .*/003.png has labels .* outside of 0"):
            dataset[3]
        cv2.imwrite(labels, np.full((56, 72), 2, np.uint8))
        with pytest.raises(UserError, match=r"label map .*/003.png has label 2, .* 2 classes"):
            dataset[3]
        (data / "labels" / "003.png").unlink()
        with pytest.raises(UserError, match=r"1 of 6 images .* have no label map"):
            build_data_set(cfg)


def test_metrics_files_are_checked(data):
    path = data / "annotations.json"
    metric = dict(type="CocoMetric", ann_file=str(path), metric="bbox")
    loader = dict(dataset=dict(type="RepeatDataset", times=2, dataset=detector(data)))
    check_evaluator([metric], loader)
    check_evaluator(dict(type="CocoMetric"), loader)
    check_evaluator(None, None)
    with pytest.raises(UserError, match=r"annotation 1 of image 0 in .* has no mask"):
        check_evaluator(metric | dict(metric=["bbox", "segm"]), loader)
    with pytest.raises(UserError, match=r"panoptic category 1 in .* has no 'isthing'"):
        check_evaluator(metric | dict(type="CocoPanopticMetric"), loader)

    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | dict(categories=content["categories"][:1])))
    with pytest.raises(UserError, match="class 'disk' of metainfo is not among the categories"):
        check_evaluator(metric, loader)
    loader["dataset"]["dataset"]["metainfo"]["classes"] = "classes.txt"
    with pytest.raises(UserError, match="which is not among the known"):
        check_evaluator(metric, loader)
    del content["annotations"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="has no 'annotations'"):
        check_evaluator(metric, loader)
    check_evaluator(metric | dict(format_only=True, outfile_prefix="x"), loader)
    # LVIS has a format of its own.
    check_evaluator(dict(type="LVISMetric", ann_file="nowhere.json"), loader)


def test_a_coco_data_set_without_a_directory_of_images(data):
    with pytest.raises(UserError, match=r"data_prefix of CocoDataset needs the key 'img'"):
        build_data_set(detector(data) | dict(data_prefix=dict(img_path="images")))
