"""Every config builds, has the parameters that the papers print, and trains."""

from __future__ import annotations

import copy
from collections.abc import Iterable

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

from tests.configs.built import CONFIGS, build, build_backbone, count_weights, host_of, load
from tools.model_zoo.configs import model_configs
from tools.model_zoo.tables import TABLES, Table

# Weights of a stage at 256 channels, as the papers count: no biases, no normalisation.
STAGE_WEIGHTS = {
    "nearest": 0,
    "bilinear": 0,
    # 2*g*s*s*C, or 2*g*C/(s*s) for -s; twice that for -plus
    "dysample": 8192,
    "dysample-plus": 16384,
    "dysample-s": 1024,
    "dysample-s-plus": 2048,
    # from here on with d = 64 (CARAFE, FADE) or 32 (SAPA), K = 5
    "deconv": 589_824,  # 9*C^2
    "pixelshuffle": 2_359_296,  # 36*C^2
    "carafe": 73_984,  # C*d + 36*K^2*d
    "indexnet": 2_099_200,  # 32*C^2 + 8*C
    "a2u": 9_728,  # 38*C
    "fade": 47_424,  # 2*C*d + 9*K^2*d + C
    "fade-ungated": 47_168,  # 2*C*d + 9*K^2*d
    "fade-lite": 13_281,  # 2*C*K^2 + 9*K^2 + C
    "sapa-i": 0,
    "sapa-b": 16_384,  # 2*C*d
    "sapa-g": 24_832,  # 3*C*d + C
    "sapa-p": 24_576,  # 3*C*d
}
# Type of the host and its stages, by the beginning of a config's name; the first that fits.
HOSTS = {
    "retinanet": ("UpsampleFPN", 2),
    "segformer": ("UpsampleSegformerHead", 6),
    "upernet": ("UpsampleUPerHead", 3),
    "maskformer": ("UpsamplePixelDecoder", 3),
    "mask2former": ("UpsampleMSDeformAttnPixelDecoder", 1),
    "faster-rcnn_r50_fpn-p6": ("UpsampleFPN", 4),
    "faster-rcnn_r101_fpn-p6": ("UpsampleFPN", 4),
    "mask-rcnn_r50_fpn-p6": ("UpsampleFPN", 4),
    "mask-rcnn_r101_fpn-p6": ("UpsampleFPN", 4),
    "": ("UpsampleFPN", 3),
}
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


def host_and_stages(name: str) -> tuple[str, int]:
    return next(expected for start, expected in HOSTS.items() if name.startswith(start))


@pytest.mark.parametrize(
    "name", fast_part(n for n, path in model_configs().items() if path.parent.name != "ablations")
)
def test_every_config_builds_with_the_upsampler_of_its_name(name):
    """Those of ablations are in test_ablations.py."""
    host = host_of(build(name))
    assert (type(host).__name__, len(host.upsample_modules)) == host_and_stages(name)
    slug = next(part for part in name.split("_") if part in STAGE_WEIGHTS)
    assert {type(m).__name__.lower() for m in host.upsample_modules} == {slug.split("-")[0]}
    channels = host.upsample_modules[0].in_channels
    assert channels == (64 if "_shapes" in name else 512 if "upernet" in name else 256)
    weights = len(host.upsample_modules) * STAGE_WEIGHTS[slug] * channels // 256
    assert count_weights(host) == weights


@pytest.mark.parametrize("name", fast_part(model_configs()))
def test_every_config_says_what_batch_it_is_for(name):
    """As in the name or, of upstream's schedules, 16; those of Shapes are for one GPU."""
    cfg = load(name)
    gpus = 1 if "_shapes" in name else 4 if "_4xb4-" in name else 8
    assert cfg.auto_scale_lr.base_batch_size == gpus * cfg.train_dataloader.batch_size


# What does not round to what is printed; docs/model_zoo.md says why.
DIFFERENCES = {
    ("dysample_table6", "dysample", "+32.7K"): "+32.8K",
    ("dysample_table8", "dysample-s-plus", "+6.2K"): "+6.1K",
    ("dysample_table8", "sapa-b", "+0.1M"): "+0.0M",
    ("sapa_table2", "sapa-g", "+0.10M"): "+0.15M",
    ("sapa_table2", "sapa-g", "+0.05M"): "+0.07M",
    ("sapa_table3", "sapa-g", "+0.05M"): "+0.07M",
}


TABLES_WITH_INCREMENTS = [
    table for table in TABLES if any(row.params.startswith("+") for row in table.rows())
]


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES_WITH_INCREMENTS, ids=lambda table: table.name)
def test_upsamplers_add_what_is_printed(table: Table):
    for row in table.rows():
        if row.params.startswith("+"):
            slug = next(part for part in row.config.split("_") if part in STAGE_WEIGHTS)
            number, unit = row.params[:-1], row.params[-1]
            decimals = len(number.partition(".")[2])
            weights = count_weights(build(row.config)) / {"K": 1e3, "M": 1e6}[unit]
            expected = DIFFERENCES.get((table.name, slug, row.params), row.params)
            assert f"+{weights:.{decimals}f}{unit}" == expected, row.config


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
    assert presets == STAGE_WEIGHTS.keys() | {"indexnet-m2o"}


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
