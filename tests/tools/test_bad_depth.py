"""Bad depth data and settings get one clear sentence, exit status 2 and no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import numpy as np
import torch

from tests.engine.toy import draw_data, draw_depth, write_config
from tests.engine.zygote import TEST
from tests.tools.test_bad_data import Case, huge, image, png

DEPTH = "depth/002.png"


def array(values: np.ndarray):
    """In the place of a depth map; image 002 is 72x56."""
    return image(DEPTH, lambda _: png(values))


def remove(pattern: str):
    def spoil(data: Path) -> None:
        for path in data.glob(pattern):
            path.unlink()

    return spoil


def nothing(data: Path) -> None:
    """The data are as they should be."""


def rename(data: Path) -> None:
    (data / "images/002.jpg").rename(data / "images/two.jpg")
    (data / DEPTH).rename(data / "depth/two.png")


TRAIN_DATA = 'train_dataloader["dataset"]'
CASES = {
    "8-bits": Case(array(np.ones((72, 56), np.uint8)), (DEPTH, "8 bits", "PNG file of 16 bits")),
    "colors": Case(array(np.ones((72, 56, 3), np.uint8)), (DEPTH, "3 channels", "one channel")),
    "size": Case(
        array(np.full((56, 72), 2000, np.uint16)),
        (DEPTH, "56x72 (height x width)", "images/002.jpg is 72x56"),
    ),
    "meters": Case(
        array(np.full((72, 56), 4, np.uint16)),
        (DEPTH, "0.004 m with depth_rescale_factor=0.001", "1e-3 for millimeters"),
    ),
    "millimeters-as-meters": Case(
        nothing,
        ("depth/00", "with depth_rescale_factor=1.0", "1e-3 for millimeters"),
        config="train_pipeline[1]['depth_rescale_factor'] = 1.0\n",
    ),
    "truncated": Case(image(DEPTH, lambda content: content[:-20]), (DEPTH, "end is missing")),
    "damaged": Case(image(DEPTH, lambda _: b"depth"), (f"the depth map data/{DEPTH}", "damaged")),
    "a-bomb": Case(image(DEPTH, huge), (DEPTH, "178,956,970")),
    "missing": Case(remove(DEPTH), ("1 of 6 images", "no depth map", DEPTH)),
    "image-missing": Case(
        remove("images/002.jpg"), ("1 of 6 depth maps", "no image", "images/002.jpg")
    ),
    "no-files": Case(remove("*/*.*"), ("NYUDataset is empty", "data/images", "data/depth")),
    "no-directory": Case(
        nothing,
        ("the directory data/depths cannot be read: no such file",),
        config=f"{TRAIN_DATA}['data_prefix']['depth_map_path'] = 'depths'\n",
    ),
    "no-digit": Case(rename, ("1 of 6 images", "no digit", "images/two.jpg", "kitchen_00045.jpg")),
    "a-split-file": Case(
        nothing,
        ("NYUDataset", "would ignore ann_file='data/train.txt'"),
        config=f"{TRAIN_DATA}['ann_file'] = 'train.txt'\n",
    ),
    "labels-for-depth": Case(
        nothing,
        ("data_prefix of NYUDataset needs the key 'depth_map_path'", "seg_map_path"),
        config=f"{TRAIN_DATA}['data_prefix'] = dict(img_path='images', seg_map_path='labels')\n",
    ),
    "slide": Case(
        nothing,
        ("model.test_cfg.mode is 'slide'", "slide_flip"),
        config="model['test_cfg'] = dict(mode='slide', crop_size=(48, 48), stride=(32, 32))\n",
    ),
    "padding": Case(
        nothing,
        ("model.data_preprocessor.seg_pad_val is 255", "seg_pad_val=0"),
        config="model['data_preprocessor']['seg_pad_val'] = 255\n",
    ),
    "rotation": Case(
        nothing,
        ("RandomRotate fills depth with seg_pad_val=255", "seg_pad_val=0"),
        config="del train_pipeline[2]['seg_pad_val']\n",
    ),
    "upstreams-list-of-metrics": Case(
        nothing,
        ("DepthMetric of mmseg fails with any depth_metrics", "DepthErrorMetric"),
        config="val_evaluator.update(type='DepthMetric', depth_metrics=['d1'])\n",
    ),
    "integers": Case(
        nothing,
        ("to_float32=False cannot give meters",),
        config="train_pipeline[1]['to_float32'] = False\n",
    ),
    "no-valid-depth-in-the-test": Case(
        nothing,
        ("none of the 6 images has a pixel whose true depth lies between 5.0 m and 10.0 m",),
        config="test_evaluator.update(min_depth_eval=5.0)\n",
        script=TEST,
    ),
    "true-depth-is-not-loaded-in-the-test": Case(
        nothing,
        ("images/000.jpg comes without its true depth", "LoadDepthAnnotation"),
        config="del test_pipeline[1]\n",
        script=TEST,
    ),
}


FAST = ("8-bits",)
"""One bad depth map for every run of the tests; the others are slow."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A checkpoint that fits the toy depth estimator."""
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    directory = tmp_path_factory.mktemp("checkpoint")
    config = Config.fromfile(write_config("depth", directory, directory / "depth.py"))
    init_default_scope("mmseg")
    state = MODELS.build(config.model).state_dict()
    torch.save(dict(meta={}, state_dict=state), directory / "good.pth")
    return directory / "good.pth"


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_tools(name, zygote, request, tmp_path):
    case = CASES[name]
    draw_depth(draw_data(tmp_path / "data"))
    write_config("depth", Path("data"), tmp_path / "config.py", case.config)
    case.spoil(tmp_path / "data")
    arguments = [request.getfixturevalue("checkpoint")] if case.script == TEST else []

    result = zygote.run(case.script, "config.py", *arguments, cwd=tmp_path)

    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.status == 2, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert len(errors) == 1, result.stderr
    assert [part for part in case.says if part not in errors[0]] == [], errors[0]
