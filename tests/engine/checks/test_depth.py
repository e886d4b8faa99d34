"""Settings of depth estimation, and that mmseg does what the sentences say."""

from __future__ import annotations

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmseg.datasets.transforms import RandomRotate
from mmseg.evaluation.metrics import DepthMetric

import mmdysample.mmseg  # noqa: F401 - registers DepthErrorMetric
from mmdysample.engine.checks import TRAINING, check_config
from mmdysample.engine.checks.settings import OF_DEPTH
from mmdysample.engine.families import augment, write_predictions
from mmdysample.errors import UserError
from mmdysample.mmseg.depth.metric import NAMES
from tests.engine.toy import CONFIGS

ROTATE = dict(type="RandomRotate", prob=1.0, degree=2.5)


def depth_config(**changes) -> Config:
    cfg = Config.fromfile(CONFIGS / "depth.py")
    cfg.merge_from_dict(changes)
    return cfg


SLIDE = {"model.test_cfg": dict(mode="slide_flip", crop_size=(48, 48), stride=(48, 48))}
UPSTREAM = {"val_evaluator": dict(type="DepthMetric", _delete_=True, min_depth_eval=1e-3)}
SEGMENTATION = {"train_dataloader.dataset.pipeline": [dict(type="LoadAnnotations"), ROTATE]}


MOSAIC = dict(type="RandomMosaic", prob=0.5, img_scale=(64, 64))
CUT_OUT = dict(type="RandomCutOut", prob=0.5, n_holes=1, cutout_shape=(4, 4))
LOADS_DEPTH = [dict(type="LoadDepthAnnotation", depth_rescale_factor=1e-3)]
PADDING = dict(type="SegDataPreProcessor", size=(64, 64))


def data_set(*transforms: dict) -> dict:
    return dict(type="NYUDataset", pipeline=[*LOADS_DEPTH, *transforms])


def wrapped(*transforms: dict) -> dict:
    """The mixture of a data set with depth, as the config of a wrapper."""
    dataset = dict(type="MultiImageMixDataset", dataset=data_set(), pipeline=list(transforms))
    return {"train_dataloader.dataset": dict(_delete_=True, **dataset)}


def concatenated(*datasets: dict) -> dict:
    """Also with 11 data sets before them."""
    plain = [dict(type="NYUDataset", pipeline=[])] * 11
    dataset = dict(type="ConcatDataset", datasets=[*plain, *datasets])
    return {"train_dataloader.dataset": dict(_delete_=True, **dataset)}


ROTATED_LABELS = dict(type="NYUDataset", pipeline=[dict(type="LoadAnnotations"), ROTATE])
OWN_AND_TOP = {"data_preprocessor": dict(PADDING, seg_pad_val=255)}


@pytest.mark.parametrize(
    "changes",
    [
        *({}, SLIDE, UPSTREAM, SEGMENTATION, OWN_AND_TOP),
        concatenated(data_set(), ROTATED_LABELS),
        concatenated(data_set(dict(ROTATE, seg_pad_val=0), CUT_OUT)),
        wrapped(dict(MOSAIC, seg_pad_val=0)),
    ],
    ids=str,
)
def test_accepted(changes):
    check_config(depth_config(**changes), TRAINING)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (wrapped(ROTATE), r"dataset.pipeline\[0\]: RandomRotate fills .* seg_pad_val=255"),
        (wrapped(MOSAIC), r"dataset.pipeline\[0\]: RandomMosaic fills .* seg_pad_val=255"),
        (
            concatenated(ROTATED_LABELS, data_set(dict(CUT_OUT, seg_fill_in=7))),
            r"datasets\[12\].pipeline\[1\]: RandomCutOut fills .* seg_fill_in=7",
        ),
        (
            {"model.data_preprocessor.type": "mmseg.SegDataPreProcessor"}
            | {"model.data_preprocessor.seg_pad_val": 255},
            r"model.data_preprocessor.seg_pad_val is 255",
        ),
    ],
    ids=str,
)
def test_what_would_be_255_meters_is_found(changes, says):
    with pytest.raises(UserError, match=says):
        check_config(depth_config(**changes), TRAINING)


def test_the_preprocessor_at_the_top_is_that_of_a_model_without():
    cfg = depth_config(data_preprocessor=PADDING)
    del cfg.model["data_preprocessor"]
    with pytest.raises(UserError, match=r"^data_preprocessor.seg_pad_val is 255, .*in meters"):
        check_config(cfg, TRAINING)
    cfg.data_preprocessor.seg_pad_val = 0
    check_config(cfg, TRAINING)


LOADING = "train_dataloader.dataset.pipeline.1"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"model.test_cfg.mode": "slide"},
            r"model.test_cfg.mode is 'slide', whose result DepthEst.*throws away",
        ),
        ({"model.test_cfg.mode": "flip"}, r"must be 'whole' or 'slide_flip', got 'flip'"),
        ({"model.test_cfg": None}, r"must be 'whole' or 'slide_flip', got None"),
        ({"model.test_cfg.mode": "slide_flip"}, r"'slide_flip' needs crop_size and stride"),
        (
            {"model.test_cfg": dict(mode="slide_flip", crop_size=(40, 40), stride=(40, 41))},
            r"test_cfg.stride=\(40, 41\) must not be greater than crop_size=\(40, 40\)",
        ),
        (
            {"model.test_cfg": dict(mode="slide_flip", crop_size=(4, 4))},
            r"there is no stride",
        ),
        (
            {"model.test_cfg": dict(mode="slide_flip", crop_size=48, stride=(4, 4))},
            r"model.test_cfg.crop_size must be a height and a width, .* got 48",
        ),
        (
            {"model.test_cfg": dict(mode="slide_flip", crop_size=(4, 4), stride=(0, 4))},
            r"model.test_cfg.stride must be a height .* of at least 1, got \(0, 4\)",
        ),
        ({"model.data_preprocessor.seg_pad_val": 255}, r"seg_pad_val is 255, .* set seg_pad_val=0"),
        ({"train_dataloader.dataset.pipeline.2": ROTATE}, None),
        ({f"{LOADING}.depth_rescale_factor": "1e-3"}, r"must be a number above 0, .* got '1e-3'"),
        ({f"{LOADING}.depth_rescale_factor": 0}, r"must be a number above 0, .* got 0"),
        ({f"{LOADING}.to_float32": False}, r"to_float32=False cannot give meters"),
        (
            {"val_evaluator": dict(type="DepthMetric", depth_metrics=["d1"])},
            r"val_evaluator: DepthMetric of mmseg fails with any depth_metrics",
        ),
        (
            {"default_hooks.checkpoint.save_best": "absrel"},
            r"'absrel' is not measured .*did you mean 'abs_rel'",
        ),
    ],
    ids=str,
)
def test_refused(changes, says):
    cfg = depth_config(**{key: value for key, value in changes.items() if value != ROTATE})
    if ROTATE in changes.values():
        cfg.train_dataloader.dataset.pipeline[2] = ROTATE
        says = r"pipeline\[2\]: RandomRotate fills depth with seg_pad_val=255"
    with pytest.raises(UserError, match=says):
        check_config(cfg, TRAINING)


def test_the_names_of_what_is_measured():
    assert OF_DEPTH == NAMES


def test_mmseg_would_fill_depth_with_255_meters():
    sample = dict(img=np.zeros((20, 20, 3), np.uint8), seg_fields=["gt_depth_map"])
    sample["gt_depth_map"] = np.ones((20, 20), np.float32)
    rotated = RandomRotate(prob=1.0, degree=(30, 31))(sample)["gt_depth_map"]
    assert rotated.max() == 255


@pytest.mark.parametrize("swapped", [False, True])
def test_no_merging_of_classes(swapped):
    cfg = depth_config(tta_model=dict(type="SegTTAModel"), tta_pipeline=[])
    if swapped:
        cfg.model.update(type="UpsampleModel", of=cfg.model.type)
    with pytest.raises(UserError, match=r"--tta merges the classes .*mode='slide_flip'"):
        augment(cfg)


UNKNOWN_HEAD = {"model.decode_head": dict(type="FCNHead", _delete_=True)}


@pytest.mark.parametrize(
    ("evaluator", "changes", "says"),
    [
        (
            dict(max_depth_eval=80),
            {},
            r"max_depth_eval of test_ev.* is 80 m, .*=1000.0 .* 819 or",
        ),
        (
            dict(max_depth_eval=10),
            {"model.decode_head.max_depth": 80},
            "max_depth of model.decode_head is 80 m",
        ),
        (dict(depth_scale_factor="mm"), {}, r"depth_scale_factor of .* above 0, got 'mm'"),
        (dict(depth_scale_factor=6554), {}, "max_depth of model.decode_head is 10.0 m, .* 6553 or"),
        ({}, UNKNOWN_HEAD, "the config does not say .*above 65.535 m"),
    ],
    ids=str,
)
def test_depths_that_do_not_fit_into_16_bits_are_not_written(evaluator, changes, says, tmp_path):
    cfg = depth_config(**changes)
    cfg.test_evaluator = dict(type="DepthMetric", **evaluator)
    with pytest.raises(UserError, match=says):
        write_predictions(cfg, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_our_metric_clamps_what_does_not_fit(tmp_path):
    cfg = depth_config(**{"model.decode_head.max_depth": 80})
    cfg.test_evaluator = dict(type="DepthErrorMetric", max_depth_eval=10)
    write_predictions(cfg, str(tmp_path / "out"))
    assert cfg.test_evaluator.depth_scale_factor == 1000


def test_mmseg_would_wrap_them(tmp_path):
    metric = DepthMetric(max_depth_eval=80, depth_scale_factor=1000, output_dir=str(tmp_path))
    depth = dict(data=torch.full((1, 2, 3), 80.0))
    metric.process({}, [dict(pred_depth_map=depth, gt_depth_map=depth, img_path="a/7.jpg")])
    assert cv2.imread(str(tmp_path / "7.png"), cv2.IMREAD_UNCHANGED)[0, 0] == 80000 - 65536


@pytest.mark.parametrize(
    ("evaluator", "factor"),
    [
        (dict(type="DepthMetric"), 1000.0),
        (dict(type="DepthErrorMetric"), 1000.0),
        (dict(type="DepthMetric", depth_scale_factor=256.0), 256.0),
        (dict(type="DepthMetric", depth_scale_factor=819.0, max_depth_eval=80), 819.0),
        (dict(type="DepthErrorMetric", depth_scale_factor=6553.5), 6553.5),
        (dict(type="IoUMetric"), None),
    ],
    ids=str,
)
def test_predictions_are_written_in_millimeters(evaluator, factor, tmp_path):
    cfg = depth_config()
    cfg.test_evaluator = dict(evaluator)
    write_predictions(cfg, str(tmp_path / "out"))
    assert cfg.test_evaluator.output_dir == str(tmp_path / "out")
    assert cfg.test_evaluator.get("depth_scale_factor") == factor
    # our metric takes no argument that it does not know
    assert ("keep_results" in cfg.test_evaluator) == (evaluator["type"] != "DepthErrorMetric")
