"""Mask R-CNN's configs: built, with the parameters of the DySample paper's Table 7."""

from __future__ import annotations

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from tests.configs.test_configs import (
    CONFIGS,
    SLUGS,
    STAGE_WEIGHTS,
    build_to_count,
    load,
    upsampler_weights,
)

NAME = "mask_rcnn/mask-rcnn_{}_{}_{}_1x_coco.py"
RIVALS = ["deconv", "pixelshuffle", "carafe", "indexnet", "a2u", "fade-ungated", "sapa-b"]
# Rows of Table 7, and the other variants of DySample for R101.
ROWS = [("r50", slug) for slug in ["nearest", *SLUGS, *RIVALS]]
ROWS += [("r101", slug) for slug in ["nearest", *SLUGS]]
MASK_HEAD = "mask_rcnn/mask-rcnn_r50_fpn_dysample_mask-head_1x_coco.py"


def test_there_is_a_config_for_every_row_of_the_table():
    rows = {NAME.format(depth, layout, s) for depth, s in ROWS for layout in ("fpn", "fpn-p6")}
    shipped = {f"mask_rcnn/{path.name}" for path in (CONFIGS / "mask_rcnn").glob("*.py")}
    assert shipped == rows | {MASK_HEAD}


@pytest.mark.parametrize(("depth", "slug"), ROWS)
def test_three_stages_in_the_plain_layout(depth, slug):
    model = build_to_count(NAME.format(depth, "fpn", slug))
    assert type(model).__name__ == "MaskRCNN"
    assert len(model.backbone.layer3) == {"r50": 6, "r101": 23}[depth]
    assert upsampler_weights(model) == 3 * STAGE_WEIGHTS[slug]


@pytest.mark.parametrize("slug", SLUGS)
def test_four_stages_for_r101(slug):
    model = build_to_count(NAME.format("r101", "fpn-p6", slug))
    assert upsampler_weights(model) == 4 * STAGE_WEIGHTS[slug]


@pytest.mark.parametrize(
    ("slug", "printed"),
    [
        ("dysample", "32.8K"),  # printed +32.7K: 4 * 8,192 = 32,768
        ("dysample-plus", "65.5K"),
        ("dysample-s", "4.1K"),
        ("dysample-s-plus", "8.2K"),
        ("deconv", "2.4M"),
        ("pixelshuffle", "9.4M"),
        ("carafe", "0.3M"),
        ("indexnet", "8.4M"),
        ("a2u", "38.9K"),
        ("fade-ungated", "0.2M"),
        ("sapa-b", "0.1M"),
    ],
)
def test_four_stages_have_the_increments_of_table_6(slug, printed):
    """Table 7 prints none; its caption says that they are those of Faster R-CNN."""
    weights = upsampler_weights(build_to_count(NAME.format("r50", "fpn-p6", slug)))
    unit = {"K": 1e3, "M": 1e6}[printed[-1]]
    assert f"{weights / unit:.1f}" == printed[:-1]


@pytest.mark.parametrize("depth", ["r50", "r101"])
def test_the_baseline_has_upstreams_parameters(depth, tmp_path):
    path = tmp_path / "upstream.py"
    path.write_text(f'_base_ = "mmdet::mask_rcnn/mask-rcnn_{depth}_fpn_1x_coco.py"')
    ours, theirs = (
        {name: parameter.shape for name, parameter in build_to_count(config).named_parameters()}
        for config in (NAME.format(depth, "fpn", "nearest"), path)
    )
    assert ours == theirs


def test_the_mask_head_upsamples_with_dysample():
    """2*g*s*s*C weights in place of the deconvolution's 2*2*C*C."""
    plain = build_to_count(NAME.format("r50", "fpn", "dysample"))
    model = build_to_count(MASK_HEAD)
    assert upsampler_weights(model) == 3 * 8192  # the neck's are counted alone
    head = model.roi_head.mask_head
    assert type(head.upsample).__name__ == "DySample"
    weights = sum(p.numel() for p in head.upsample.parameters() if p.dim() > 1)
    assert weights == 2 * 4 * 4 * 256
    mine, theirs = (sum(p.numel() for p in m.roi_head.parameters()) for m in (model, plain))
    assert theirs - mine == (2 * 2 * 256 * 256 + 256) - (8192 + 32)


@pytest.mark.parametrize("upsampler", ["nearest", "dysample"])
def test_shapes_configs_evaluate_boxes_and_masks(upsampler):
    cfg = load(f"shapes/mask-rcnn_r18_fpn_{upsampler}_shapes.py")
    assert cfg.val_evaluator.metric == cfg.test_evaluator.metric == ["bbox", "segm"]
    assert cfg.test_dataloader == cfg.val_dataloader
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        steps = {step.type: step for step in loader.dataset.pipeline}
        assert steps["LoadAnnotations"].with_mask
    assert cfg.model.roi_head.mask_head.num_classes == len(cfg.metainfo.classes)
