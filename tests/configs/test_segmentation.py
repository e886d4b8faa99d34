"""MaskFormer's, Mask2Former's and UPerNet's configs: backbones, schedules and evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.registry import MODELS, TRANSFORMS, DefaultScope
from mmseg.structures import SegDataSample

from tests.configs.built import build, count_weights, load

MASKFORMER = "maskformer_swin-{}-in22k-384x384-pre_{}_8xb2-160k_ade20k-640x640"
MASK2FORMER = "mask2former_swin-b-in22k-384x384-pre_{}_8xb2-160k_ade20k-640x640"
UPERNET = "upernet_r50_{}_4xb4-80k_ade20k-512x512"


def test_dysample_has_3_percent_of_carafes_parameters():
    """DySample paper, section 1, of DySample-S+ in Swin-B."""
    slugs = ("dysample-s-plus", "carafe")
    ours, carafe = (count_weights(build(MASKFORMER.format("b", slug))) for slug in slugs)
    assert round(100 * ours / carafe) == 3


@pytest.mark.parametrize("size", ["b", pytest.param("l", marks=pytest.mark.slow)])
def test_the_backbones_of_maskformer_are_swin_b_and_swin_l(size):
    name = MASKFORMER.format(size, "dysample-s-plus")
    backbone = load(name).model.backbone
    assert backbone.embed_dims == {"b": 128, "l": 192}[size]
    assert backbone.num_heads == {"b": [4, 8, 16, 32], "l": [6, 12, 24, 48]}[size]
    assert (backbone.depths, backbone.window_size) == ([2, 2, 18, 2], 12)
    assert (backbone.drop_path_rate, backbone.pretrain_img_size) == (0.3, 384)
    channels = {"b": 1024, "l": 1536}[size]
    assert build(name).decode_head.decoder_input_proj.weight.shape == (256, channels, 1, 1)


@pytest.mark.parametrize("size", ["b", "l"])
def test_the_schedule_of_maskformer(size):
    cfg = load(MASKFORMER.format(size, "dysample-s-plus"))
    assert cfg.train_dataloader.batch_size == 2
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


def test_the_schedule_of_upernet():
    cfg = load(UPERNET.format("dysample"))
    assert cfg.train_dataloader.batch_size == 4 and cfg.train_cfg.max_iters == 80_000


@pytest.mark.parametrize(
    ("name", "size"),
    [
        (MASKFORMER.format("b", "dysample-s-plus"), (640, 1099)),
        (MASKFORMER.format("l", "dysample-s-plus"), (640, 1099)),
        (MASK2FORMER.format("dysample"), (640, 1099)),
        (UPERNET.format("dysample"), (512, 879)),
    ],
)
def test_evaluation(name, size):
    """The size that an image of 301x517 is tested at, and that both IoUs are reported."""
    cfg = load(name)
    for part in ("val", "test"):
        with DefaultScope.overwrite_default_scope("mmseg"):
            steps = [TRANSFORMS.build(t) for t in cfg[f"{part}_dataloader"].dataset.pipeline]
        names = [type(step).__name__ for step in steps]
        results = dict(img=np.zeros((301, 517, 3), np.uint8))
        for step in steps[1 : names.index("LoadAnnotations")]:
            results = step(results)
        assert results["img"].shape == (*size, 3)
        evaluator = cfg[f"{part}_evaluator"]
        assert (evaluator.type, evaluator.iou_metrics) == ("BoundaryIoUMetric", ["mIoU"])


@pytest.mark.parametrize("size", ["b", "l"])
def test_maskformer_pads_to_multiples_of_32(size):
    """As the backbone was trained."""
    preprocessor = load(MASKFORMER.format(size, "dysample-s-plus")).model.data_preprocessor
    with DefaultScope.overwrite_default_scope("mmseg"):
        preprocessor = MODELS.build(preprocessor)
    sample = SegDataSample(metainfo=dict(img_shape=(640, 1099)))
    data = dict(inputs=[torch.zeros(3, 640, 1099, dtype=torch.uint8)], data_samples=[sample])
    assert preprocessor(data)["inputs"].shape == (1, 3, 640, 1120)
