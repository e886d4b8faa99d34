"""Drawings and results of panoptic models on single images."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

import mmdet.apis.det_inferencer as upstream
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData

from mmdysample.mmdet import PanopticLocalVisualizer
from mmdysample.mmdet.panoptic.inferencer import PanopticInferencer
from mmdysample.mmdet.panoptic.segments import rgb_to_id
from tests.mmdet.panoptic_data import META, VOID_LABEL

CONFIG = Path(__file__).parents[2] / "configs/shapes/panoptic-fpn_r18_fpn_dysample_shapes.py"
IDS = [[1000, 1000, 70_001], [2, VOID_LABEL, 3]]
# What panopticapi makes of 1,000, 70,001, 2, void and 3: R + 256 G + 65536 B.
COLORS = [[[232, 3, 0], [232, 3, 0], [113, 17, 1]], [[2, 0, 0], [0, 0, 0], [3, 0, 0]]]


def make_sample(**metainfo) -> DetDataSample:
    sample = DetDataSample(metainfo=metainfo)
    sample.pred_panoptic_seg = PixelData(sem_seg=torch.tensor([IDS]).int())
    return sample


def make_inferencer(cls=PanopticInferencer):
    """Without a model: what is made of a prediction is tested."""
    inferencer = object.__new__(cls)
    inferencer.model = SimpleNamespace(dataset_meta=META)
    inferencer.num_predicted_imgs = 0
    inferencer._written = {}
    return inferencer


def test_segments_are_given_as_colors():
    sample = make_sample()
    result = make_inferencer().pred2dict(sample)
    assert result.keys() == {"panoptic_seg"}
    assert result["panoptic_seg"].dtype == np.uint8
    assert result["panoptic_seg"].tolist() == COLORS
    assert sample.pred_panoptic_seg.sem_seg.tolist() == [IDS], "the prediction is left as it is"


@pytest.mark.parametrize("named", [True, False])
def test_files_are_those_of_mmdets_inferencer(tmp_path, monkeypatch, named):
    """That needs three names from panopticapi."""
    monkeypatch.setattr(upstream, "VOID", 0)
    shifts = np.array([0, 8, 16])
    monkeypatch.setattr(
        upstream, "id2rgb", lambda ids: ids[..., None] >> shifts & 255, raising=False
    )
    metainfo = dict(img_path="some/where/a.b.jpg") if named else {}
    results = {}
    for cls in (PanopticInferencer, upstream.DetInferencer):
        sample = make_sample(**metainfo)
        sample.pred_instances = InstanceData(
            labels=torch.tensor([1]),
            scores=torch.tensor([0.5]),
            bboxes=torch.tensor([[1.0, 2, 3, 4]]),
        )
        out = tmp_path / cls.__name__
        results[cls] = make_inferencer(cls).pred2dict(sample, str(out))
        written = json.loads((out / "preds" / f"{'a.b' if named else 0}.json").read_text())
        assert written == results[cls]
    ours, theirs = results.values()
    mine, other = (Path(result.pop("panoptic_seg_path")) for result in (ours, theirs))
    assert ours == theirs == dict(labels=[1], scores=[0.5], bboxes=[[1, 2, 3, 4]])
    assert mine.name == other.name
    for path in (mine, other):
        assert cv2.imread(str(path))[..., ::-1].tolist() == COLORS


def test_a_model_without_segments_is_upstreams_business():
    sample = DetDataSample()
    sample.pred_instances = InstanceData(labels=torch.tensor([1]), scores=torch.tensor([0.5]))
    assert make_inferencer().pred2dict(sample) == dict(labels=[1], scores=[0.5])


def make_visualizer() -> PanopticLocalVisualizer:
    visualizer = PanopticLocalVisualizer()
    visualizer.dataset_meta = META | dict(palette=[(255, 0, 0)] * 4)
    return visualizer


def test_a_prediction_without_segments_is_drawn_as_the_image(tmp_path):
    image = np.full((40, 60, 3), 90, np.uint8)
    sample = DetDataSample()
    sample.pred_panoptic_seg = PixelData(sem_seg=torch.full((1, 40, 60), VOID_LABEL).int())
    make_visualizer().add_datasample(
        "name", image, sample, draw_gt=False, out_file=str(tmp_path / "a.png")
    )
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png")), image)
    assert "pred_panoptic_seg" in sample


def test_segments_are_drawn(tmp_path):
    image = np.full((40, 60, 3), 90, np.uint8)
    ids = torch.full((1, 40, 60), VOID_LABEL).int()
    ids[0, :, :30] = 1000
    sample = DetDataSample()
    sample.pred_panoptic_seg = PixelData(sem_seg=ids)
    make_visualizer().add_datasample(
        "name", image, sample, draw_gt=False, out_file=str(tmp_path / "a.png")
    )
    blue, green, red = cv2.imread(str(tmp_path / "a.png"))[5, 10]
    assert red > 150 and max(blue, green) < 60
    assert cv2.imread(str(tmp_path / "a.png"))[5, 50].tolist() == [90, 90, 90]


@pytest.mark.slow
def test_a_directory_of_images_in_drawings_and_segments_out(tmp_path):
    cfg = Config.fromfile(CONFIG)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(cfg.model)
    model.init_weights()
    checkpoint = dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(cfg.metainfo)))
    torch.save(checkpoint, tmp_path / "model.pth")
    (tmp_path / "in").mkdir()
    for name, size in (("a", (50, 70)), ("b", (64, 64))):
        noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"in/{name}.jpg"), noise)
    inferencer = PanopticInferencer(
        str(CONFIG), str(tmp_path / "model.pth"), device="cpu", show_progress=False
    )
    out = tmp_path / "out"
    inferencer(str(tmp_path / "in"), out_dir=str(out), no_save_pred=False)
    for name, size in (("a", (50, 70)), ("b", (64, 64))):
        assert cv2.imread(str(out / f"vis/{name}.jpg")).shape[:2] == size
        ids = rgb_to_id(cv2.imread(str(out / f"preds/{name}_panoptic_seg.png"))[..., ::-1])
        assert ids.shape == size
        assert (ids % 1000 < 12).all()
