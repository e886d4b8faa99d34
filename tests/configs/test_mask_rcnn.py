"""Mask R-CNN's configs: upstream's parameters, the mask head, and both metrics on Shapes."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from tests.configs.built import build, count_weights, load

NAME = "mask-rcnn_{}_fpn_{}_1x_coco"


@pytest.mark.parametrize("depth", ["r50", "r101"])
def test_the_baseline_has_upstreams_parameters(depth, tmp_path):
    path = tmp_path / "upstream.py"
    path.write_text(f'_base_ = "mmdet::mask_rcnn/mask-rcnn_{depth}_fpn_1x_coco.py"')
    with torch.device("meta"), DefaultScope.overwrite_default_scope("mmdet"):
        upstream = MODELS.build(Config.fromfile(path).model)
    ours, theirs = (
        {name: parameter.shape for name, parameter in model.named_parameters()}
        for model in (build(NAME.format(depth, "nearest")), upstream)
    )
    assert ours == theirs


def test_the_mask_head_upsamples_with_dysample():
    """2*g*s*s*C weights in place of the deconvolution's 2*2*C*C."""
    plain = build(NAME.format("r50", "dysample"))
    model = build(NAME.format("r50", "dysample_mask-head"))
    assert count_weights(model.neck) == 3 * 8192
    head = model.roi_head.mask_head
    assert type(head.upsample).__name__ == "DySample"
    assert count_weights(head) == 2 * 4 * 4 * 256
    mine, theirs = (sum(p.numel() for p in m.roi_head.parameters()) for m in (model, plain))
    assert theirs - mine == (2 * 2 * 256 * 256 + 256) - (8192 + 32)


@pytest.mark.parametrize("upsampler", ["nearest", "dysample"])
def test_shapes_configs_evaluate_boxes_and_masks(upsampler):
    cfg = load(f"mask-rcnn_r18_fpn_{upsampler}_shapes")
    assert cfg.val_evaluator.metric == cfg.test_evaluator.metric == ["bbox", "segm"]
    assert cfg.test_dataloader == cfg.val_dataloader
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        steps = {step.type: step for step in loader.dataset.pipeline}
        assert steps["LoadAnnotations"].with_mask
    assert cfg.model.roi_head.mask_head.num_classes == len(cfg.metainfo.classes)
