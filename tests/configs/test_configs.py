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
MODEL_CONFIGS = sorted(  # those of ablations are in test_ablations.py
    path
    for path in CONFIGS.rglob("*.py")
    if not path.relative_to(CONFIGS).parts[0].startswith(("_", "ablations"))
)
SLUGS = ["dysample", "dysample-plus", "dysample-s", "dysample-s-plus"]
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
    """Weights of the upsamplers, without biases and normalisation: what the papers count."""
    return sum(
        p.numel()
        for name, p in model.named_parameters()
        if "upsample_modules" in name and p.dim() > 1
    )


def trainable(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("path", MODEL_CONFIGS, ids=lambda p: p.stem)
def test_every_config_builds_with_the_upsampler_of_its_name(path):
    model = build_to_count(path)
    host = model.decode_head if hasattr(model, "decode_head") else model.neck
    host = getattr(host, "pixel_decoder", host)
    slug = next(part for part in path.stem.split("_") if part in STAGE_WEIGHTS)
    assert {type(m).__name__.lower() for m in host.upsample_modules} == {slug.split("-")[0]}
    stage = sum(p.numel() for p in host.upsample_modules[0].parameters() if p.dim() > 1)
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
    ("slug", "table_4", "table_6"),
    [
        ("deconv", "3.5M", "2.4M"),
        ("pixelshuffle", "14.2M", "9.4M"),
        ("carafe", "0.4M", "0.3M"),
        ("indexnet", "12.6M", "8.4M"),
        ("a2u", "0.1M", "38.9K"),
        ("fade-ungated", "0.3M", "0.2M"),
        ("sapa-b", "0.1M", "0.1M"),
    ],
)
def test_rivals_have_the_published_increments(slug, table_4, table_6):
    """Tables 4 and 6 of the DySample paper."""
    for config, printed in [
        (SEGFORMER.format(slug), table_4),
        (FASTER_RCNN.format("r50", "fpn-p6", slug), table_6),
    ]:
        unit = {"K": 1e3, "M": 1e6}[printed[-1]]
        assert f"{upsampler_weights(build_to_count(config)) / unit:.1f}" == printed[:-1]


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


@pytest.mark.parametrize("slug", [slug for slug in STAGE_WEIGHTS if slug not in SLUGS])
def test_hosts_take_every_upsampler(slug):
    """Odd maps through the neck of Faster R-CNN and the head of SegFormer, there and back."""
    sizes = [(23, 37), (12, 19), (6, 10), (3, 5)]
    necks = ["fpn", "fpn-p6"] if slug not in ("bilinear", "sapa-p") else []
    for layout in necks:
        cfg = load(FASTER_RCNN.format("r50", layout, slug)).model.neck
        with DefaultScope.overwrite_default_scope("mmdet"):
            neck = MODELS.build(cfg | dict(in_channels=[8, 16, 24, 32], out_channels=64))
        neck.init_weights()
        inputs = [torch.randn(2, c, *hw) for c, hw in zip(neck.in_channels, sizes, strict=True)]
        outs = neck(inputs)
        assert [tuple(out.shape[2:]) for out in outs] == [*sizes, (2, 3)]
        check_gradients(neck.upsample_modules, sum(out.square().mean() for out in outs))
    if slug != "nearest":
        cfg = load(SEGFORMER.format(slug)).model.decode_head
        with DefaultScope.overwrite_default_scope("mmseg"):
            head = MODELS.build(cfg | dict(channels=64, norm_cfg=dict(type="BN")))
        head.init_weights()
        inputs = [torch.randn(2, c, *hw) for c, hw in zip(head.in_channels, sizes, strict=True)]
        out = head(inputs)
        assert out.shape == (2, 150, *sizes[0])
        check_gradients(head.upsample_modules, out.square().mean())


def check_gradients(upsamplers: torch.nn.Module, loss: torch.Tensor) -> None:
    loss.backward()
    for name, parameter in upsamplers.named_parameters():
        assert parameter.grad is not None, f"no gradient reaches {name}"
        assert torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite"


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
