"""Depth of single images, by the inferencer and by what the tools for analysis share."""

from __future__ import annotations

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mmdysample.inference import load_input, load_model, open_inferencer, predict
from tests.engine.toy import draw_data, write_config
from tests.panels import count


def test_an_image_without_true_depth(tmp_path):
    """There is no data set of true depth: the step that loads it is left out."""
    config = write_config("depth", draw_data(tmp_path / "data"), tmp_path / "config.py")
    cfg = Config.fromfile(config)
    init_default_scope("mmseg")
    model = MODELS.build(cfg.model)
    checkpoint = str(tmp_path / "model.pth")
    meta = dict(dataset_meta=dict(classes=("kitchen", "bathroom")))
    torch.save(dict(meta=meta, state_dict=model.state_dict()), checkpoint)
    image = str(tmp_path / "data" / "images" / "000.jpg")

    data = load_input(cfg, image)
    assert data["inputs"].shape == (3, 72, 56)
    depth = predict(load_model(cfg, checkpoint, "cpu"), data).pred_depth_map.data
    assert depth.shape == (1, 72, 56) and depth.min() > 0 and depth.max() < 10

    inferencer = open_inferencer(str(config), checkpoint, "cpu")
    out = str(tmp_path / "out")
    found = inferencer(image, out_dir=out, return_vis=True)
    assert np.allclose(found["predictions"], depth[0].numpy(), atol=1e-5)
    assert np.array_equal(np.load(f"{out}/pred/00000000_pred.npy"), found["predictions"])
    assert 2 < count(cv2.imread(f"{out}/vis/000.jpg"), 72, 56) < 2.4  # and a scale
