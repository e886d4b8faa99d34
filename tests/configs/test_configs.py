"""Every config builds, has the parameters that the papers print, and trains."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from tests.configs.built import (
    CONFIGS,
    build,
    build_backbone,
    count_upsamplers,
    count_weights,
    host_of,
    load,
)
from tools.model_zoo.configs import model_configs
from tools.model_zoo.tables import TABLES, Table

# Weights of a stage of x channels, guided by y: no biases, no normalization. d = 64 (CARAFE, FADE)
# or 32 (SAPA), K = 5, s = 2.
STAGE_WEIGHTS = {
    "nearest": lambda x, y: 0,
    "bilinear": lambda x, y: 0,
    # 2*g*s*s*x with g = 4, or 2*g*x/(s*s) with g = 8 for -s; twice that for -plus
    "dysample": lambda x, y: 32 * x,
    "dysample-plus": lambda x, y: 64 * x,
    "dysample-s": lambda x, y: 4 * x,
    "dysample-s-plus": lambda x, y: 8 * x,
    "deconv": lambda x, y: 9 * x**2,
    "pixelshuffle": lambda x, y: 36 * x**2,
    "carafe": lambda x, y: 64 * x + 36 * 25 * 64,  # x*d + 9*s*s*K^2*d
    "indexnet": lambda x, y: 16 * y * 2 * y + 2 * y * 4,  # 4x4, y -> 2y; 1x1, 2y -> s*s
    "a2u": lambda x, y: 38 * y,
    # (x+y)*d + 9*K^2*d + x, and a 1x1 convolution y -> x where these differ
    "fade": lambda x, y: 64 * (x + y) + 9 * 25 * 64 + x + (x * y if x != y else 0),
    "fade-ungated": lambda x, y: 64 * (x + y) + 9 * 25 * 64,
    "fade-lite": lambda x, y: 25 * (x + y) + 9 * 25 + x,  # (x+y)*K^2 + 9*K^2 + x
    "sapa-i": lambda x, y: 0,
    "sapa-b": lambda x, y: 32 * (x + y),
    "sapa-g": lambda x, y: 32 * (2 * x + y) + x,
    "sapa-p": lambda x, y: 32 * (2 * x + y),
    "max-unpool": lambda x, y: 0,
}


class Expected(NamedTuple):
    """Type of a host, and channels of its stages in their order and of the guides of these."""

    host: str
    channels: list[int]
    guides: list[int]


def equal(host: str, channels: int, stages: int) -> Expected:
    return Expected(host, [channels] * stages, [channels] * stages)


# By the beginning of a config's name; the first that fits.
HOSTS = {
    "segformer_mit-b0": equal("UpsampleSegformerHead", 64, 6),
    "segformer": equal("UpsampleSegformerHead", 256, 6),
    "upernet_r18": equal("UpsampleUPerHead", 64, 3),
    "upernet": equal("UpsampleUPerHead", 512, 3),
    "maskformer": equal("UpsamplePixelDecoder", 256, 3),
    "mask2former": equal("UpsampleMSDeformAttnPixelDecoder", 256, 1),
    "retinanet": equal("UpsampleFPN", 256, 2),
    "faster-rcnn_r50_fpn-p6": equal("UpsampleFPN", 256, 4),
    "faster-rcnn_r101_fpn-p6": equal("UpsampleFPN", 256, 4),
    "mask-rcnn_r50_fpn-p6": equal("UpsampleFPN", 256, 4),
    "mask-rcnn_r101_fpn-p6": equal("UpsampleFPN", 256, 4),
    "faster-rcnn_r18": equal("UpsampleFPN", 64, 3),
    "mask-rcnn_r18": equal("UpsampleFPN", 64, 3),
    "panoptic-fpn_r18": equal("UpsampleFPN", 64, 3),
    "depthformer_swin-t": Expected("DenseDepthHead", [768, 384, 192, 96], [384, 192, 96, 64]),
    "bts_r50": Expected("BTSHead", [2048, 512, 128, 128], [1024, 512, 256, 64]),
    "depthformer_swin-small": Expected("DenseDepthHead", [128, 64, 32, 16], [64, 32, 16, 16]),
    "bts_r18": Expected("BTSHead", [256, 64, 16, 16], [128, 64, 32, 32]),
    "a2u-matting_r34": Expected("MattingHead", *[[256, 128, 64, 64]] * 2),
    "a2u-matting_r18": Expected("MattingHead", *[[64, 32, 16, 16]] * 2),
    "segnet_vgg16": Expected("SegNetHead", *[[512, 512, 256, 128, 64]] * 2),
    "segnet_small": Expected("SegNetHead", *[[128, 64, 32, 16]] * 2),
    "": equal("UpsampleFPN", 256, 3),
}
WITHOUT_HOST = ("deeplabv3plus", "fcn", "fpn", "pspnet", "rtmdet", "unet", "yolox")
# SegNet's own is no upsampler for other hosts, and has no preset.
TYPES = {"max-unpool": "maxunpool"}
SEGFORMER = "segformer_mit-b1_{}_8xb2-160k_ade20k-512x512"


def fast_part(names: Iterable[str]) -> list:
    """Parameters of a test; those after the first of each directory and model are slow."""
    seen = set()
    parameters = []
    for name in names:
        kind = (model_configs()[name].parent.name, name.split("_")[0])
        parameters.append(pytest.param(name, marks=[pytest.mark.slow] if kind in seen else []))
        seen.add(kind)
    return parameters


def expected_of(name: str) -> Expected:
    return next(expected for start, expected in HOSTS.items() if name.startswith(start))


def upsampler_in(name: str) -> str:
    return next(part for part in name.split("_") if part in STAGE_WEIGHTS)


@pytest.mark.parametrize(
    "name",
    fast_part(
        name
        for name, path in model_configs().items()
        if path.parent.name != "ablations" and not name.startswith(WITHOUT_HOST)
    ),
)
def test_every_config_builds_with_the_upsampler_of_its_name(name):
    """Those of ablations are in test_ablations.py, those without a host of ours in
    test_upsample_models.py."""
    host, expected, slug = host_of(build(name)), expected_of(name), upsampler_in(name)
    stages = host.upsample_modules
    assert type(host).__name__ == expected.host
    assert len(stages) == len(expected.channels)
    types = {type(stage).__name__.lower() for stage in stages}
    assert types == {TYPES.get(slug, slug.split("-")[0])}
    if slug not in TYPES:
        assert [stage.in_channels for stage in stages] == expected.channels
        assert [stage.guide_channels for stage in stages] == expected.guides
    widths = zip(expected.channels, expected.guides, strict=True)
    assert count_weights(host) == sum(STAGE_WEIGHTS[slug](x, y) for x, y in widths)


@pytest.mark.parametrize("name", fast_part(model_configs()))
def test_every_config_says_what_batch_it_is_for(name):
    """As in the name or, of upstream's schedules, 8 GPUs x 2; those of Shapes are for one GPU."""
    cfg = load(name)
    batch = cfg.train_dataloader.batch_size
    named = re.search(r"_(\d+)xb(\d+)-", name)
    gpus, images = (
        map(int, named.groups()) if named else (1, batch) if "_shapes" in name else (8, 2)
    )
    assert (cfg.auto_scale_lr.base_batch_size, batch) == (gpus * images, images)


# What does not round to what is printed; docs/model_zoo.md says why.
DIFFERENCES = {
    ("dysample_table6", "dysample", "+32.7K"): "+32.8K",
    ("dysample_table8", "dysample-s-plus", "+6.2K"): "+6.1K",
    ("dysample_table8", "sapa-b", "+0.1M"): "+0.0M",
    ("sapa_table2", "sapa-g", "+0.10M"): "+0.15M",
    ("sapa_table2", "sapa-g", "+0.05M"): "+0.07M",
    ("sapa_table3", "sapa-g", "+0.05M"): "+0.07M",
    # of depth and matting
    ("dysample_table9", "a2u", "+30.0K"): "+28.0K",
    ("sapa_table4", "indexnet", "+44.20M"): "+44.19M",
    ("sapa_table5", "indexnet", "+12.26M"): "+2.89M",
    ("sapa_table5", "sapa-g", "+0.04M"): "+0.05M",
    ("fade_readme_matting", "a2u", "+38K"): "+22K",
    ("fade_readme_matting", "indexnet", "+12.26M"): "+2.89M",
    ("fade_readme_matting", "sapa-g", "+0.04M"): "+0.05M",
}
# Tables that count biases and normalization, too.
COUNTS_ALL = {"sapa_table4", "sapa_table5", "fade_readme_matting"}


TABLES_WITH_INCREMENTS = [
    table for table in TABLES if any(row.params.startswith("+") for row in table.rows())
]


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES_WITH_INCREMENTS, ids=lambda table: table.name)
def test_upsamplers_add_what_is_printed(table: Table):
    for row in table.rows():
        if row.params.startswith("+"):
            slug = upsampler_in(row.config)
            number, unit = row.params[:-1], row.params[-1]
            decimals = len(number.partition(".")[2])
            count = count_upsamplers if table.name in COUNTS_ALL else count_weights
            added = count(build(row.config)) / {"K": 1e3, "M": 1e6}[unit]
            expected = DIFFERENCES.get((table.name, slug, row.params), row.params)
            assert f"+{added:.{decimals}f}{unit}" == expected, row.config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        # mmdet counts what is trained: the frozen stem and first stage are not in the 46.8M.
        ("faster-rcnn_r50_fpn-p6_nearest_1x_coco", 46.8),
        ("faster-rcnn_r101_fpn-p6_nearest_1x_coco", 65.8),
        ("faster-rcnn_r50_fpn_nearest_1x_coco", 41.5),
        (SEGFORMER.format("bilinear"), 13.7),
        ("maskformer_swin-b-in22k-384x384-pre_nearest_8xb2-160k_ade20k-640x640", 102),
        ("mask2former_swin-b-in22k-384x384-pre_bilinear_8xb2-160k_ade20k-640x640", 107),
    ],
)
def test_baselines_have_the_published_parameters(name, millions):
    """DySample, Tables 4 and 6; SAPA, Tables 2 and 3."""
    model, cfg = build(name), load(name)
    parts = [model]
    if cfg.default_scope == "mmseg":
        parts = [build_backbone(cfg), model.decode_head]
    count = sum(p.numel() for part in parts for p in part.parameters() if p.requires_grad)
    assert round(count / 1e6, 1 if isinstance(millions, float) else None) == millions


@pytest.mark.parametrize(
    ("slug", "settings"),
    [
        ("nearest", dict(type="Nearest")),
        ("bilinear", dict(type="Bilinear")),
        ("dysample", dict(type="DySample", style="lp", groups=4, dyscope=False)),
        ("dysample-plus", dict(type="DySample", style="lp", groups=4, dyscope=True)),
        ("dysample-s", dict(type="DySample", style="pl", groups=8, dyscope=False)),
        ("dysample-s-plus", dict(type="DySample", style="pl", groups=8, dyscope=True)),
        ("deconv", dict(type="Deconv")),
        ("pixelshuffle", dict(type="PixelShuffle")),
        (
            "carafe",
            dict(type="CARAFE", up_kernel=5, up_group=1, encoder_kernel=3, compressed_channels=64),
        ),
        ("indexnet", dict(type="IndexNet", variant="hin")),
        ("indexnet-m2o", dict(type="IndexNet", variant="m2o")),
        ("a2u", dict(type="A2U")),
        ("fade", dict(type="FADE", gating=True, lite=False)),
        ("fade-ungated", dict(type="FADE", gating=False, lite=False)),
        ("fade-lite", dict(type="FADE", gating=True, lite=True)),
        ("sapa-i", dict(type="SAPA", variant="i", kernel_size=5)),
        ("sapa-b", dict(type="SAPA", variant="b", kernel_size=5, embedding_dim=32)),
        ("sapa-g", dict(type="SAPA", variant="g", kernel_size=5, embedding_dim=32)),
        ("sapa-p", dict(type="SAPA", variant="p", kernel_size=5, embedding_dim=32)),
    ],
)
def test_upsampler_presets_are_the_papers_variants(slug, settings):
    cfg = Config.fromfile(CONFIGS / f"_base_/upsamplers/{slug}.py")
    assert dict(cfg.upsample_cfg) == settings


def test_every_preset_is_tested():
    presets = {path.stem for path in (CONFIGS / "_base_/upsamplers").glob("*.py")}
    assert presets == STAGE_WEIGHTS.keys() - TYPES.keys() | {"indexnet-m2o"}


@pytest.mark.parametrize("loader", ["val_dataloader", "test_dataloader"])
def test_segformer_is_tested_on_sides_that_are_multiples_of_32(loader):
    cfg = load(SEGFORMER.format("a2u"))
    with DefaultScope.overwrite_default_scope("mmseg"):
        steps = [TRANSFORMS.build(step) for step in cfg[loader].dataset.pipeline]
    results = dict(img=np.zeros((301, 517, 3), np.uint8))
    for step in steps[1:3]:  # between loading the image and loading the labels
        results = step(results)
    # 301x517 fits into 512x2048 at 512x879
    assert results["img"].shape == (512, 896, 3)
    assert type(steps[3]).__name__ == "LoadAnnotations"


def train_a_step(model: torch.nn.Module, inputs: dict) -> None:
    """One optimizer step; every upsampler must receive a gradient and move."""
    model.init_weights()
    model.train()
    params = [p for p in model.parameters() if p.requires_grad]
    upsamplers = {n: p for n, p in model.named_parameters() if "upsample_modules" in n}
    before = {n: p.detach().clone() for n, p in upsamplers.items()}
    data = model.data_preprocessor(inputs, training=True)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    assert torch.isfinite(loss)
    optimizer = torch.optim.SGD(params, lr=1e-3)
    loss.backward()
    optimizer.step()
    assert upsamplers
    for name, p in upsamplers.items():
        assert not torch.equal(p, before[name]), f"{name} did not move"


@pytest.mark.slow
def test_faster_rcnn_trains_and_infers_on_odd_sizes():
    cfg = copy.deepcopy(load("faster-rcnn_r50_fpn-p6_dysample-plus_1x_coco"))
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(cfg.model)
    train_a_step(model, demo_mm_inputs(2, [(3, 97, 135)] * 2, num_items=[4] * 2))
    model.eval()
    data = model.data_preprocessor(demo_mm_inputs(1, [(3, 97, 135)]), training=False)
    with torch.no_grad():
        (result,) = model(**data, mode="predict")
    assert result.pred_instances.bboxes.shape[1] == 4
    assert torch.isfinite(result.pred_instances.bboxes).all()


@pytest.mark.slow
def test_segformer_trains_a_step_on_odd_sizes():
    cfg = copy.deepcopy(load(SEGFORMER.format("dysample-s-plus")))
    cfg.model.decode_head.norm_cfg = dict(type="BN")  # SyncBN needs a process group
    cfg.model.data_preprocessor.size = (97, 135)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(cfg.model)
    samples = []
    for _ in range(2):
        labels = PixelData(data=torch.randint(0, 150, (1, 97, 135)))
        samples.append(SegDataSample(gt_sem_seg=labels, metainfo=dict(img_shape=(97, 135))))
    images = [torch.randint(0, 255, (3, 97, 135), dtype=torch.uint8) for _ in samples]
    train_a_step(model, dict(inputs=images, data_samples=samples))
