"""SegNet's configs: what each upsampler adds, and the training that SAPA's appendix C tells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.config import Config
from mmengine.registry import TRANSFORMS, DefaultScope

from mmdysample.mmseg import SegNetHead
from mmdysample.mmseg.segnet.max_unpool import MaxUnpool
from tests.configs.built import CONFIGS, build, build_backbone, load
from tools.model_zoo.configs import model_configs

SUNRGBD = "segnet_vgg16_{}_1xb8-200e_sunrgbd"
SMALL = "segnet_small_{}_shapes"
# Sums over the widths 512, 512, 256, 128, 64 of the papers' formulas. Deconv, PixelShuffle and
# DySample are of weights alone, as they are printed for other models; the others of all parameters.
WEIGHTS = {
    "nearest": 0,
    "bilinear": 0,
    "deconv": 5_492_736,
    "pixelshuffle": 21_970_944,
    "dysample": 47_104,
    "dysample-plus": 94_208,
    "dysample-s": 5_888,
    "dysample-s-plus": 11_776,
}
PARAMETERS = {
    "carafe": 383_028,
    "indexnet": 19_547_392,
    "a2u": 62_014,
    "fade": 262_338,
    "fade-ungated": 260_861,
    "fade-lite": 76_452,
    "sapa-i": 5_888,
    "sapa-b": 100_416,
    "sapa-g": 149_157,
}


@pytest.mark.parametrize("slug", WEIGHTS | PARAMETERS)
def test_what_an_upsampler_adds(slug):
    upsample_cfg = Config.fromfile(CONFIGS / f"_base_/upsamplers/{slug}.py").upsample_cfg
    with torch.device("meta"), DefaultScope.overwrite_default_scope("mmseg"):
        head = SegNetHead(num_classes=37, upsample_cfg=dict(upsample_cfg))
    parameters = list(head.upsample_modules.parameters())
    if slug in WEIGHTS:
        assert sum(p.numel() for p in parameters if p.dim() > 1) == WEIGHTS[slug]
    else:
        assert sum(p.numel() for p in parameters) == PARAMETERS[slug]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "slugs"),
    [
        (SUNRGBD, "nearest bilinear carafe indexnet a2u sapa-b sapa-g fade dysample max-unpool"),
        (SMALL, "nearest bilinear carafe indexnet sapa-b fade dysample max-unpool"),
    ],
    ids=["sunrgbd", "shapes"],
)
def test_configs_are_alike_but_for_the_upsampler(name, slugs):
    names = {name.format(slug): slug for slug in slugs.split()}
    assert {n for n in model_configs() if n.startswith(name.split("{")[0])} == names.keys()
    first = load(name.format("nearest"))
    widths = first.model.backbone.get("widths", (64, 128, 256, 512, 512))
    for config, slug in names.items():
        stages = build(config).decode_head.upsample_modules
        if slug == "max-unpool":
            assert [type(stage) for stage in stages] == [MaxUnpool] * len(widths)
        else:
            assert {type(s).__name__.lower() for s in stages} == {slug.split("-")[0]}
            assert [s.in_channels for s in stages] == list(reversed(widths))
            assert [s.guide_channels for s in stages] == list(reversed(widths))
        cfg = load(config)
        for key in set(first) - {"model", "upsample_cfg"}:
            assert cfg[key] == first[key], key
        for key in set(first.model) - {"decode_head"}:
            assert cfg.model[key] == first.model[key], key


def test_parameters_of_the_whole_model():
    """VGG-16's, and in the decoder 13 convolutions with batch normalization and the classifier."""
    cfg = load(SUNRGBD.format("nearest"))
    assert sum(p.numel() for p in build_backbone(cfg).parameters()) == 14_723_136
    coarse = 3 * 512 * 512 + 2 * 512 * 512 + 512 * 256
    fine = 2 * 256 * 256 + 256 * 128 + 128 * 128 + 128 * 64 + 2 * 64 * 64
    norms = 2 * (5 * 512 + 256 + 2 * 256 + 128 + 128 + 64 + 2 * 64)
    head = build(SUNRGBD.format("nearest")).decode_head
    expected = 9 * (coarse + fine) + norms + 64 * 37 + 37
    assert sum(p.numel() for p in head.parameters()) == expected


def test_the_schedule_is_that_of_sapas_appendix():
    cfg = load(SUNRGBD.format("sapa-b"))
    # built.load leaves out what is downloaded
    raw = Config.fromfile(model_configs()[SUNRGBD.format("sapa-b")])
    assert raw.model.backbone.init_cfg == dict(
        type="Pretrained", checkpoint="torchvision://vgg16_bn"
    )
    optimizer = dict(cfg.optim_wrapper.optimizer)
    assert optimizer == dict(type="SGD", lr=0.01, momentum=0.9)
    assert cfg.param_scheduler == []
    assert (cfg.train_cfg.type, cfg.train_cfg.max_epochs) == ("EpochBasedTrainLoop", 200)
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 8
    assert cfg.train_dataloader.sampler.type == "DefaultSampler"
    assert cfg.model.decode_head.loss_decode.type == "CrossEntropyLoss"


def test_a_training_sample_is_scaled_cropped_and_flipped():
    cfg = load(SUNRGBD.format("sapa-b"))
    steps = cfg.train_dataloader.dataset.pipeline[2:-1]
    assert [step.type for step in steps] == ["RandomResize", "RandomCrop", "RandomFlip"]
    with DefaultScope.overwrite_default_scope("mmseg"):
        steps = [TRANSFORMS.build(step) for step in steps]
    shapes, flips = set(), set()
    for _ in range(12):
        labels = np.random.randint(0, 37, (53, 73), np.uint8).repeat(10, 0).repeat(10, 1)
        results = dict(img=np.zeros((530, 730, 3), np.uint8), gt_seg_map=labels)
        results.update(img_shape=(530, 730), seg_fields=["gt_seg_map"])
        for step in steps:
            results = step(results)
        shapes.add(results["img"].shape[:2])
        flips.add(results["flip"])
        assert results["gt_seg_map"].shape == results["img"].shape[:2]
    assert flips == {True, False}
    assert len(shapes) > 1 and np.max(list(shapes)) == 480
    assert cfg.model.data_preprocessor.size == (480, 480)


def test_images_are_tested_whole_at_640x480():
    cfg = load(SUNRGBD.format("sapa-b"))
    for part in ("val", "test"):
        load_image, resize, labels, _ = cfg[f"{part}_dataloader"].dataset.pipeline
        with DefaultScope.overwrite_default_scope("mmseg"):
            results = TRANSFORMS.build(resize)(dict(img=np.zeros((530, 730, 3), np.uint8)))
        assert results["img"].shape == (465, 640, 3)
        assert (load_image.type, labels.type) == ("LoadImageFromFile", "LoadAnnotations")
        evaluator = cfg[f"{part}_evaluator"]
        assert (evaluator.type, evaluator.iou_metrics) == ("BoundaryIoUMetric", ["mIoU"])
    assert cfg.model.test_cfg.mode == "whole"
