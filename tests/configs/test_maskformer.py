"""MaskFormer's configs: built, with the papers' parameters and schedule."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.registry import MODELS, TRANSFORMS, DefaultScope

from tests.configs.test_configs import (
    CONFIGS,
    SLUGS,
    STAGE_WEIGHTS,
    build_to_count,
    check_gradients,
    load,
    trainable,
    upsampler_weights,
)

NAME = "maskformer/maskformer_swin-{}-in22k-384x384-pre_{}_8xb2-160k_ade20k-640x640.py"
# SAPA's Table 2 beside Nearest and CARAFE, which DySample's Table 5 has as well.
RIVALS = ["carafe", "indexnet", "a2u", "sapa-i", "sapa-b", "sapa-g"]
ROWS = [("b", slug) for slug in ["nearest", *RIVALS, *SLUGS]]
ROWS += [("l", slug) for slug in ["nearest", "carafe", *SLUGS]]
rows = pytest.mark.parametrize(("size", "slug"), ROWS)


@functools.cache
def build_head(name: str) -> nn.Module:
    """The decode head of a config, without memory; to look at."""
    cfg = load(name)
    with torch.device("meta"), DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(cfg.model.decode_head)


def test_there_is_a_config_for_every_row_of_the_tables():
    shipped = {f"maskformer/{path.name}" for path in (CONFIGS / "maskformer").glob("*.py")}
    assert shipped == {NAME.format(*row) for row in ROWS}


@rows
def test_three_stages_of_the_upsampler_that_the_name_says(size, slug):
    head = build_head(NAME.format(size, slug))
    assert type(head).__name__ == "UpsampleMaskFormerHead"
    assert type(head.pixel_decoder).__name__ == "UpsamplePixelDecoder"
    stages = head.pixel_decoder.upsample_modules
    assert [type(up).__name__.lower() for up in stages] == [slug.split("-")[0]] * 3
    assert upsampler_weights(head) == 3 * STAGE_WEIGHTS[slug]
    channels = {"b": 1024, "l": 1536}[size]
    assert head.decoder_input_proj.weight.shape == (256, channels, 1, 1)


@pytest.mark.parametrize(
    ("slug", "printed"),
    [
        ("carafe", "0.22"),
        ("indexnet", "6.30"),
        ("a2u", "0.03"),
        ("sapa-i", "0.00"),
        ("sapa-b", "0.05"),
        ("sapa-g", "0.07"),  # printed 0.05, SAPA-B's; 3 * (3*256*32 + 256) = 74,496
    ],
)
def test_rivals_have_the_published_increments(slug, printed):
    """Millions, SAPA paper, Table 2."""
    assert f"{upsampler_weights(build_head(NAME.format('b', slug))) / 1e6:.2f}" == printed


def test_dysample_has_3_percent_of_carafes_parameters():
    """DySample paper, section 1, of DySample-S+ in Swin-B."""
    ours, carafe = (
        upsampler_weights(build_head(NAME.format("b", slug)))
        for slug in ("dysample-s-plus", "carafe")
    )
    assert round(100 * ours / carafe) == 3


def test_the_baseline_has_the_published_parameters():
    """SAPA paper, Table 2: 102M."""
    assert round(trainable(build_to_count(NAME.format("b", "nearest"))) / 1e6) == 102


@pytest.mark.parametrize("size", ["b", "l"])
def test_the_backbones_are_swin_b_and_swin_l(size):
    backbone = load(NAME.format(size, "dysample")).model.backbone
    assert backbone.embed_dims == {"b": 128, "l": 192}[size]
    assert backbone.num_heads == {"b": [4, 8, 16, 32], "l": [6, 12, 24, 48]}[size]
    assert (backbone.depths, backbone.window_size) == ([2, 2, 18, 2], 12)
    assert (backbone.drop_path_rate, backbone.pretrain_img_size) == (0.3, 384)


@pytest.mark.parametrize("size", ["b", "l"])
def test_the_schedule(size):
    cfg = load(NAME.format(size, "dysample-s-plus"))
    assert cfg.train_dataloader.batch_size == 2 and cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_cfg.max_iters == 160_000
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("AdamW", 6e-5, 0.01)
    assert cfg.optim_wrapper.clip_grad.max_norm == 0.01
    warmup, poly = cfg.param_scheduler
    assert (warmup.type, warmup.end, poly.begin, poly.end) == ("LinearLR", 1500, 1500, 160_000)
    # norms and position biases of all 24 blocks do not decay
    keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
    assert keys["backbone.stages.2.blocks.17.norm"].decay_mult == 0
    crop = next(t for t in cfg.train_dataloader.dataset.pipeline if t.type == "RandomCrop")
    assert crop.crop_size == cfg.model.data_preprocessor.size == (640, 640)
    resize = next(t for t in cfg.train_dataloader.dataset.pipeline if "Resize" in t.type)
    assert resize.scales == [320 + 64 * n for n in range(16)] and resize.max_size == 2560


def check_evaluation(name: str, size: tuple[int, int]) -> None:
    """A picture of 301x517 is tested at ``size``, and both IoUs are reported."""
    cfg = load(name)
    for part in ("val", "test"):
        with DefaultScope.overwrite_default_scope("mmseg"):
            steps = [TRANSFORMS.build(t) for t in cfg[f"{part}_dataloader"].dataset.pipeline]
        names = [type(step).__name__ for step in steps]
        resizes = names[1 : names.index("LoadAnnotations")]
        results = dict(img=np.zeros((301, 517, 3), np.uint8))
        for step in steps[1 : 1 + len(resizes)]:
            results = step(results)
        assert results["img"].shape == (*size, 3)
        evaluator = cfg[f"{part}_evaluator"]
        assert (evaluator.type, evaluator.iou_metrics) == ("BoundaryIoUMetric", ["mIoU"])


@pytest.mark.parametrize("size", ["b", "l"])
def test_evaluation(size):
    """Short side 640; padded to multiples of 32, as the backbone was trained."""
    check_evaluation(NAME.format(size, "dysample"), (640, 1099))
    preprocessor = load(NAME.format(size, "dysample")).model.data_preprocessor
    with DefaultScope.overwrite_default_scope("mmseg"):
        preprocessor = MODELS.build(preprocessor)
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=dict(img_shape=(640, 1099)))
    data = dict(inputs=[torch.zeros(3, 640, 1099, dtype=torch.uint8)], data_samples=[sample])
    assert preprocessor(data)["inputs"].shape == (1, 3, 640, 1120)


@pytest.mark.parametrize("slug", ["nearest", *RIVALS, *SLUGS])
def test_every_upsampler_passes_through(slug):
    """Odd maps through the pixel decoder of the config, there and back."""
    cfg = load(NAME.format("b", slug)).model.decode_head
    cfg.update(in_channels=[8, 16, 24, 32], feat_channels=64, out_channels=64)
    with DefaultScope.overwrite_default_scope("mmseg"):
        decoder = MODELS.build(cfg).pixel_decoder
    decoder.init_weights()
    sizes = [(23, 37), (12, 19), (6, 10), (3, 5)]
    inputs = [torch.randn(2, c, *hw) for c, hw in zip(decoder.in_channels, sizes, strict=True)]
    mask_feature, _ = decoder(inputs, [])
    assert mask_feature.shape == (2, 64, 23, 37)
    check_gradients(decoder.upsample_modules, mask_feature.square().mean())
