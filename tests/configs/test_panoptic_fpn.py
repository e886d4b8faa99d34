"""Panoptic FPN's configs: built, with the parameters of the DySample paper's Table 8."""

from __future__ import annotations

import inspect

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmdet.datasets import CocoPanopticDataset
from mmdet.datasets.transforms import LoadPanopticAnnotations
from mmdet.evaluation import CocoPanopticMetric
from mmengine.config import Config

from tests.configs.test_configs import (
    CONFIGS,
    SLUGS,
    STAGE_WEIGHTS,
    build_to_count,
    load,
    upsampler_weights,
)
from tools.shapes.classes import CATEGORIES, STUFF, THINGS

NAME = "panoptic_fpn/panoptic-fpn_{}_fpn_{}_1x_coco.py"
RIVALS = ["deconv", "pixelshuffle", "carafe", "indexnet", "a2u", "fade-ungated", "sapa-b"]
ROWS = [("r50", slug) for slug in ["nearest", *SLUGS, *RIVALS]]
ROWS += [("r101", slug) for slug in ["nearest", *SLUGS]]


def test_there_is_a_config_for_every_row_of_the_table():
    shipped = {f"panoptic_fpn/{path.name}" for path in (CONFIGS / "panoptic_fpn").glob("*.py")}
    assert shipped == {NAME.format(depth, slug) for depth, slug in ROWS}


@pytest.mark.parametrize(("depth", "slug"), ROWS)
def test_parameter_increments(depth, slug):
    model = build_to_count(NAME.format(depth, slug))
    assert type(model).__name__ == "PanopticFPN"
    assert len(model.backbone.layer3) == {"r50": 6, "r101": 23}[depth]
    assert len(model.neck.upsample_modules) == 3
    assert upsampler_weights(model) == 3 * STAGE_WEIGHTS[slug]


@pytest.mark.parametrize(
    ("slug", "printed"),
    [
        ("deconv", "1.8M"),
        ("pixelshuffle", "7.1M"),
        ("carafe", "0.2M"),
        ("indexnet", "6.3M"),
        ("a2u", "29.2K"),
        ("fade-ungated", "0.1M"),
        # 3 * 16,384 = 49,152, which is 0.05M: the table rounds it up
        ("sapa-b", "0.0M"),
        ("dysample-s", "3.1K"),
        # 3 * 2,048 = 6,144: the table has +6.2K, twice its rounded 3.1K
        ("dysample-s-plus", "6.1K"),
        ("dysample", "24.6K"),
        ("dysample-plus", "49.2K"),
    ],
)
def test_increments_as_table_8_prints_them(slug, printed):
    weights = upsampler_weights(build_to_count(NAME.format("r50", slug)))
    unit = {"K": 1e3, "M": 1e6}[printed[-1]]
    assert f"{weights / unit:.1f}" == printed[:-1]


@pytest.mark.parametrize(("depth", "millions"), [("r50", 46.0), ("r101", 65.0)])
def test_baselines_have_the_published_parameters(depth, millions):
    """46.0M and 65.0M, with the frozen stem and first stage, which Table 6 leaves out."""
    model = build_to_count(NAME.format(depth, "nearest"))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


@pytest.fixture
def upstream(tmp_path) -> Config:
    """mmdet's own config, read as ours read it."""
    path = tmp_path / "upstream.py"
    path.write_text('_base_ = "mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py"')
    return Config.fromfile(path)


def test_only_the_pyramid_differs_from_upstreams_model(upstream):
    ours = Config.fromfile(CONFIGS / NAME.format("r50", "dysample")).model.to_dict()
    theirs = upstream.model.to_dict()
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
    for name in (NAME.format("r50", "nearest"), "shapes/panoptic-fpn_r18_fpn_nearest_shapes.py"):
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
    cfg = load(f"shapes/panoptic-fpn_r18_fpn_{upsampler}_shapes.py")
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
