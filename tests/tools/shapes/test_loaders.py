"""The loaders of mmdet and mmseg read the data set through the configs that are shipped for it."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import mmdet.datasets
import mmseg.datasets
from mmdet.evaluation import CocoMetric
from mmengine import Config, DefaultScope
from mmengine.registry import DATASETS
from mmengine.utils import import_modules_from_strings

from tools.shapes.annotations import bounding_box
from tools.shapes.classes import CATEGORIES, STUFF, THINGS
from tools.shapes.scene import draw_scene

CONFIGS = Path(__file__).parents[3] / "configs/_base_/datasets"


def scene_of(split: str, index: int):
    return draw_scene(0, int(split == "val"), index, 96, 128)


def load_config(name: str, directory: Path) -> Config:
    config = Config.fromfile(CONFIGS / name)
    for split in ("train", "val"):
        config[f"{split}_dataloader"].dataset.data_root = str(directory)
    return config


@pytest.mark.parametrize(("split", "count"), [("train", 24), ("val", 8)])
def test_coco_dataset(shapes_directory, split, count):
    settings = load_config("shapes_detection.py", shapes_directory)[f"{split}_dataloader"].dataset
    settings.pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    ]
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build(settings)
        assert type(dataset) is mmdet.datasets.CocoDataset
        assert dataset.metainfo["classes"] == THINGS
        scenes = [scene_of(split, index) for index in range(count)]
        if split == "train":  # without images that hold nothing
            scenes = [scene for scene in scenes if scene.instances]
        assert len(dataset) == len(scenes)
        for item, scene in zip(map(dataset.__getitem__, range(len(dataset))), scenes, strict=True):
            assert item["img"].shape == (96, 128, 3)
            # JPEG, and BGR: a mix-up of the channels would be far off
            assert np.abs(item["img"][..., ::-1].astype(int) - scene.image).mean() < 3.0
            labels = [instance.category_id - 1 for instance in scene.instances]
            assert item["gt_bboxes_labels"].tolist() == labels
            ignored = [instance.is_crowd for instance in scene.instances]
            assert item["gt_ignore_flags"].tolist() == ignored
            for box, mask, instance in zip(
                item["gt_bboxes"].tensor.tolist(),
                item["gt_masks"].masks,
                scene.instances,
                strict=True,
            ):
                x, y, width, height = bounding_box(instance.mask)
                assert box == [x, y, x + width, y + height]
                np.testing.assert_array_equal(mask.astype(bool), instance.mask)


@pytest.mark.parametrize(("split", "count"), [("train", 24), ("val", 8)])
def test_ade_style_dataset(shapes_directory, split, count):
    settings = load_config("shapes_segmentation.py", shapes_directory)[
        f"{split}_dataloader"
    ].dataset
    settings.pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
    with DefaultScope.overwrite_default_scope("mmseg"):
        dataset = DATASETS.build(settings)
        assert type(dataset) is mmseg.datasets.BaseSegDataset
        assert dataset.metainfo["classes"] == THINGS + STUFF
        assert len(dataset) == count
        for index in range(count):
            item = dataset[index]
            scene = scene_of(split, index)
            # 0, no label, becomes 255; the others move down by one
            np.testing.assert_array_equal(item["gt_seg_map"], scene.semantic - np.uint8(1))
            assert np.abs(item["img"][..., ::-1].astype(int) - scene.image).mean() < 3.0


def test_coco_panoptic_dataset(shapes_directory):
    dataset = mmdet.datasets.CocoPanopticDataset(
        data_root=str(shapes_directory),
        ann_file="annotations/panoptic_train2017.json",
        data_prefix=dict(img="train2017/", seg="annotations/panoptic_train2017/"),
        metainfo=dict(classes=THINGS + STUFF, thing_classes=THINGS, stuff_classes=STUFF),
        test_mode=True,
    )
    assert len(dataset) == 24
    for index in range(24):
        info, scene = dataset.get_data_info(index), scene_of("train", index)
        assert Path(info["seg_map_path"]).is_file()
        assert len(info["instances"]) == sum(not i.is_crowd for i in scene.instances)
        labels = {segment["category"] + 1 for segment in info["segments_info"]}
        assert labels == set(np.unique(scene.semantic)) - {0}


def test_nyu_dataset(shapes_directory):
    with DefaultScope.overwrite_default_scope("mmseg"):
        dataset = mmseg.datasets.NYUDataset(
            data_root=str(shapes_directory),
            data_prefix=dict(img_path="images/training", depth_map_path="depth/training"),
            pipeline=[
                dict(type="LoadImageFromFile"),
                dict(type="LoadDepthAnnotation", depth_rescale_factor=1e-3),
            ],
        )
        assert len(dataset) == 24
        meters = dataset[5]["gt_depth_map"]
    np.testing.assert_allclose(meters, scene_of("train", 5).depth / 1000.0, rtol=1e-6)


def test_coco_metric_gives_the_truth_full_marks(shapes_directory):
    """Boxes as ground truth has them, groups left out, are 100 % right."""
    ann_file = shapes_directory / "annotations/instances_val2017.json"
    truth = json.loads(ann_file.read_text())
    metric = CocoMetric(ann_file=str(ann_file), metric=["bbox", "segm"])
    metric.dataset_meta = dict(classes=THINGS)
    torch = pytest.importorskip("torch", reason="needs torch: bash tools/setup_env.sh installs it")
    for index, image in enumerate(truth["images"]):
        single = [i for i in scene_of("val", index).instances if not i.is_crowd]
        boxes = [bounding_box(instance.mask) for instance in single]
        prediction = dict(
            bboxes=torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes]).reshape(-1, 4),
            labels=torch.tensor([instance.category_id - 1 for instance in single]),
            scores=torch.ones(len(single)),
            masks=torch.tensor(np.array([i.mask for i in single])).reshape(len(single), 96, 128),
        )
        sample = dict(img_id=image["id"], ori_shape=(96, 128), pred_instances=prediction)
        metric.process({}, [sample])
    scores = metric.evaluate(size=len(truth["images"]))
    assert scores["coco/bbox_mAP"] == scores["coco/segm_mAP"] == 1.0


@pytest.mark.parametrize(
    ("name", "scope", "key"),
    [
        ("shapes_detection.py", "mmdet", "gt_instances"),
        ("shapes_segmentation.py", "mmseg", "gt_sem_seg"),
    ],
)
def test_pipelines_of_the_configs_run(shapes_directory, name, scope, key):
    import_modules_from_strings([f"{scope}.datasets"])
    config = load_config(name, shapes_directory)
    with DefaultScope.overwrite_default_scope(scope):
        for split in ("train", "val"):
            item = DATASETS.build(config[f"{split}_dataloader"].dataset)[0]
            assert key in item["data_samples"]
            channels, height, width = item["inputs"].shape
            assert channels == 3
            if (scope, split) == ("mmseg", "train"):  # a random size, cropped
                assert 0.8 * 120 <= height <= 128
                assert width == 128
            else:
                assert (height, width) == (120, 160)


def test_configs_name_the_drawn_classes():
    detection = Config.fromfile(CONFIGS / "shapes_detection.py").metainfo
    segmentation = Config.fromfile(CONFIGS / "shapes_segmentation.py").metainfo
    assert tuple(detection.classes) == THINGS
    assert tuple(segmentation.classes) == THINGS + STUFF
    colors = [category.color for category in CATEGORIES]
    assert [tuple(color) for color in segmentation.palette] == colors
    assert [tuple(color) for color in detection.palette] == colors[: len(THINGS)]
