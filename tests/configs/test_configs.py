"""Every config builds, has the parameters that the papers print, and trains."""

from __future__ import annotations

from pathlib import Path

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

CONFIGS = Path(__file__).parents[2] / "configs"
MODEL_CONFIGS = sorted(
    path for path in CONFIGS.rglob("*.py") if not path.relative_to(CONFIGS).parts[0].startswith("_")
)
SLUGS = ["dysample", "dysample-plus", "dysample-s", "dysample-s-plus"]
# Weights of a stage at 256 channels: 2*g*s*s*C, or 2*g*C/(s*s) for -s; twice that for -plus.
STAGE_WEIGHTS = {
    "nearest": 0,
    "bilinear": 0,
    "dysample": 8192,
    "dysample-plus": 16384,
    "dysample-s": 1024,
    "dysample-s-plus": 2048,
}
FASTER_RCNN = "faster_rcnn/faster-rcnn_{}_{}_{}_1x_coco.py"
RETINANET = "retinanet/retinanet_r50_fpn_{}_1x_coco.py"
SEGFORMER = "segformer/segformer_mit-b1_{}_8xb2-160k_ade20k-512x512.py"


def load(name: str | Path) -> Config:
    cfg = Config.fromfile(CONFIGS / name)
    for part in ("backbone", "pretrained"):  # weights to download are not built, nor needed
        if isinstance(cfg.model.get(part), dict):
            cfg.model[part].init_cfg = None
    return cfg


def build(cfg: Config) -> torch.nn.Module:
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model)


def build_to_count(name: str | Path) -> torch.nn.Module:
    """Without memory where that works; MiT computes its drop rates with tensors."""
    cfg = load(name)
    with torch.device("meta" if cfg.default_scope == "mmdet" else "cpu"):
        return build(cfg)


def upsampler_weights(model: torch.nn.Module) -> int:
    """Weights, without biases, of the upsamplers: what the papers count."""
    return sum(
        p.numel()
        for name, p in model.named_parameters()
        if "upsample_modules" in name and name.endswith("weight")
    )


def trainable(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("path", MODEL_CONFIGS, ids=lambda p: p.stem)
def test_every_config_builds_with_the_upsampler_of_its_name(path):
    model = build_to_count(path)
    host = model.decode_head if hasattr(model, "decode_head") else model.neck
    slug = next(part for part in path.stem.split("_") if part in STAGE_WEIGHTS)
    assert {type(m).__name__.lower() for m in host.upsample_modules} == {slug.split("-")[0]}
    stage = sum(p.numel() for n, p in host.upsample_modules[0].named_parameters() if "weight" in n)
    channels = host.upsample_modules[0].in_channels
    assert stage == STAGE_WEIGHTS[slug] * channels // 256


@pytest.mark.parametrize("slug", SLUGS)
@pytest.mark.parametrize(
    ("name", "stages"),
    [
        (FASTER_RCNN.format("r50", "fpn-p6", "{}"), 4),
        (FASTER_RCNN.format("r101", "fpn-p6", "{}"), 4),
        (FASTER_RCNN.format("r50", "fpn", "{}"), 3),
        (FASTER_RCNN.format("r101", "fpn", "{}"), 3),
        (RETINANET, 2),
        (SEGFORMER, 6),
    ],
)
def test_parameter_increments(name, stages, slug):
    published = {  # Table 6 (+32.7K, +65.5K, +4.1K, +8.2K) and Table 4 of the DySample paper
        4: dict(zip(SLUGS, (32768, 65536, 4096, 8192), strict=True)),
        6: dict(zip(SLUGS, (49152, 98304, 6144, 12288), strict=True)),
    }
    weights = upsampler_weights(build_to_count(name.format(slug)))
    assert weights == published.get(stages, {}).get(slug, stages * STAGE_WEIGHTS[slug])


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        # mmdet counts what is trained: the frozen stem and first stage are not in the 46.8M.
        (FASTER_RCNN.format("r50", "fpn-p6", "nearest"), 46.8),
        (FASTER_RCNN.format("r101", "fpn-p6", "nearest"), 65.8),
        (FASTER_RCNN.format("r50", "fpn", "nearest"), 41.5),
        (SEGFORMER.format("bilinear"), 13.7),
    ],
)
def test_baselines_have_the_published_parameters(name, millions):
    assert round(trainable(build_to_count(name)) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("slug", "settings"),
    [
        ("nearest", dict(type="Nearest")),
        ("bilinear", dict(type="Bilinear")),
        ("dysample", dict(type="DySample", style="lp", groups=4, dyscope=False)),
        ("dysample-plus", dict(type="DySample", style="lp", groups=4, dyscope=True)),
        ("dysample-s", dict(type="DySample", style="pl", groups=8, dyscope=False)),
        ("dysample-s-plus", dict(type="DySample", style="pl", groups=8, dyscope=True)),
    ],
)
def test_upsampler_presets_are_the_papers_variants(slug, settings):
    cfg = Config.fromfile(CONFIGS / f"_base_/upsamplers/{slug}.py")
    assert dict(cfg.upsample_cfg) == settings


@pytest.mark.parametrize("loader", ["val_dataloader", "test_dataloader"])
def test_segformer_is_tested_on_sides_that_are_multiples_of_32(loader):
    cfg = load(SEGFORMER.format("dysample"))
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


def detector_inputs(batch_size: int, height: int, width: int) -> dict:
    return demo_mm_inputs(batch_size, [(3, height, width)] * batch_size, num_items=[4] * batch_size)


@pytest.mark.parametrize(
    "name",
    [
        FASTER_RCNN.format("r50", "fpn-p6", "dysample-plus"),
        RETINANET.format("dysample-s"),
    ],
)
def test_detectors_train_a_step_on_odd_sizes(name):
    torch.manual_seed(0)
    train_a_step(build(load(name)), detector_inputs(2, 97, 135))


def test_segformer_trains_a_step_on_odd_sizes():
    torch.manual_seed(0)
    cfg = load(SEGFORMER.format("dysample-s-plus"))
    cfg.model.decode_head.norm_cfg = dict(type="BN")  # SyncBN needs a process group
    samples = []
    for _ in range(2):
        labels = PixelData(data=torch.randint(0, 150, (1, 97, 135)))
        samples.append(SegDataSample(gt_sem_seg=labels, metainfo=dict(img_shape=(97, 135))))
    cfg.model.data_preprocessor.size = (97, 135)
    images = [torch.randint(0, 255, (3, 97, 135), dtype=torch.uint8) for _ in samples]
    train_a_step(build(cfg), dict(inputs=images, data_samples=samples))


def test_faster_rcnn_trains_and_infers_at_full_size():
    """800x1333, the size of the COCO schedule, on the CPU."""
    torch.manual_seed(0)
    model = build(load(FASTER_RCNN.format("r50", "fpn", "dysample")))
    train_a_step(model, detector_inputs(1, 800, 1333))
    model.eval()
    data = model.data_preprocessor(detector_inputs(1, 800, 1333), training=False)
    with torch.no_grad():
        (result,) = model(**data, mode="predict")
    assert result.pred_instances.bboxes.shape[1] == 4
    assert torch.isfinite(result.pred_instances.bboxes).all()
