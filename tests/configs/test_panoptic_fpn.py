"""Panoptic FPN's configs: parameters of the DySample paper's Table 8, upstream's settings."""

from __future__ import annotations

import inspect

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmdet.datasets import CocoPanopticDataset
from mmdet.datasets.transforms import LoadPanopticAnnotations
from mmdet.evaluation import CocoPanopticMetric
from mmengine.config import Config

from tests.configs.built import build, load
from tools.shapes.classes import CATEGORIES, STUFF, THINGS

NAME = "panoptic-fpn_{}_fpn_{}_1x_coco"


@pytest.mark.parametrize(("depth", "millions"), [("r50", 46.0), ("r101", 65.0)])
def test_baselines_have_the_published_parameters(depth, millions):
    """46.0M and 65.0M, with the frozen stem and first stage, which Table 6 leaves out."""
    model = build(NAME.format(depth, "nearest"))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


@pytest.fixture
def upstream(tmp_path) -> Config:
    """mmdet's own config, read as ours read it."""
    path = tmp_path / "upstream.py"
    path.write_text('_base_ = "mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py"')
    return Config.fromfile(path)


def test_only_the_pyramid_differs_from_upstreams_model(upstream):
    ours = load(NAME.format("r50", "dysample")).model.to_dict()
    theirs = upstream.model.to_dict()
    del ours["backbone"]["init_cfg"], theirs["backbone"]["init_cfg"]  # `load` leaves it out
    neck = ours.pop("neck")
    assert neck["type"] == "UpsampleFPN"
    plain = theirs.pop("neck")
    assert {key: value for key, value in neck.items() if key != "upsample_cfg"} == (
        plain | dict(type="UpsampleFPN")
    )
    assert ours == theirs


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader", "test_dataloader"])
def test_data_differ_from_upstreams_in_what_needs_panopticapi_alone(loader, upstream):
    mine = load(NAME.format("r50", "dysample"))[loader].to_dict()
    theirs = upstream[loader].to_dict()
    for step in mine["dataset"]["pipeline"]:
        if step["type"] == "LoadPanopticSegments":
            step["type"] = "LoadPanopticAnnotations"
    for step in theirs["dataset"]["pipeline"]:
        step.pop("backend_args", None)
    assert mine == theirs


def test_upstreams_classes_take_the_settings_that_ours_have():
    """Where panopticapi is installed, setting ``type`` is all it takes."""
    for name in (NAME.format("r50", "nearest"), "panoptic-fpn_r18_fpn_nearest_shapes"):
        cfg = load(name)
        for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
            assert evaluator.type == "PanopticQualityMetric"
            assert evaluator.keys() - {"type", "_scope_"} <= _parameters(CocoPanopticMetric)
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            assert loader.dataset.keys() - {"type", "_scope_"} <= _parameters(CocoPanopticDataset)
            (step,) = (s for s in loader.dataset.pipeline if s.type == "LoadPanopticSegments")
            assert step.keys() - {"type", "_scope_"} <= _parameters(LoadPanopticAnnotations)


def _parameters(kind: type) -> set[str]:
    return set(inspect.signature(kind.__init__).parameters)


@pytest.mark.parametrize("upsampler", ["nearest", "dysample"])
def test_shapes_configs_have_the_classes_of_the_data(upsampler):
    cfg = load(f"panoptic-fpn_r18_fpn_{upsampler}_shapes")
    assert cfg.metainfo.thing_classes == THINGS
    assert cfg.metainfo.stuff_classes == STUFF
    assert cfg.metainfo.classes == THINGS + STUFF
    assert [tuple(color) for color in cfg.metainfo.palette] == [c.color for c in CATEGORIES]
    heads = (cfg.model.semantic_head, cfg.model.panoptic_fusion_head)
    for head in heads:
        assert head.num_things_classes == len(cfg.metainfo.thing_classes)
        assert head.num_stuff_classes == len(cfg.metainfo.stuff_classes)
    assert cfg.test_dataloader == cfg.val_dataloader
    assert cfg.test_evaluator == cfg.val_evaluator
    assert cfg.visualizer.type == "PanopticLocalVisualizer"
