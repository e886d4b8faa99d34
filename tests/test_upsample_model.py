"""UpsampleModel: one line of a config swaps the upsampling of any model of mmdet or mmseg."""

from __future__ import annotations

import copy
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmdet.models import YOLOX
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

import mmdysample.mmseg  # noqa: F401 - registers
from mmdysample import DySample, Upsampler
from mmdysample.engine.checkpoint import load_checkpoint_file
from mmdysample.engine.checks.parts import check_parts
from mmdysample.engine.config import load_config
from mmdysample.errors import InvalidValue
from mmdysample.inference import open_inferencer
from mmdysample.upsample_model import original_model
from tests.engine.zygote import ROOT, TEST, TRAIN, shared_zygote
from tools.analysis.try_configs import reduce_config

CONFIGS = ROOT / "configs"


class Host(NamedTuple):
    """A small model of mmdet or mmseg as it is, and what is swapped in it."""

    config: str
    modules: tuple[str, ...]
    """Names of the upsamplers."""
    exact: bool
    """Whether it upsamples by nearest neighbors alone."""
    changes: dict = {}  # noqa: RUF012 - never changed
    groups: int = 4
    example: int = 64
    """`image_size`."""
    side: int = 128
    """Of the images: the coarsest map needs a pixel that is not at its border, where nearest
    neighbors have no gradient, and sides that are powers of two, where coordinates are exact."""


NAS_FPN = dict(
    type="NASFPN",
    in_channels=[8, 16, 32, 64],
    out_channels=8,
    num_outs=5,
    stack_times=1,
    start_level=1,
    norm_cfg=dict(type="BN"),
)
HOSTS = {
    "yolox": Host(
        "shapes/yolox_s_nearest_shapes.py", ("neck.upsample.128", "neck.upsample.64"), True
    ),
    "rtmdet": Host(
        "shapes/rtmdet_tiny_nearest_shapes.py", ("neck.upsample.128", "neck.upsample.64"), True
    ),
    "fpn": Host(
        "_base_/models/faster-rcnn_r18_fpn_small.py",
        ("neck.upsampling.0", "neck.upsampling.1", "neck.upsampling.2"),
        True,
        dict(neck=dict(type="FPN")),
    ),
    "nas-fpn": Host(
        "retinanet/retinanet_r50_fpn_nearest_1x_coco.py",
        tuple(
            f"neck.fpn_stages.0.{cell}.upsampling.0" for cell in ("gp_64_4", "sum_43_3", "gp_75_6")
        ),
        True,
        dict(
            backbone=dict(depth=18, base_channels=8, stem_channels=8, init_cfg=None),
            neck=dict(_delete_=True, **NAS_FPN),
            bbox_head=dict(in_channels=8, feat_channels=8, stacked_convs=1, num_classes=8),
        ),
        example=256,
        side=512,
    ),
    "hrnet": Host(
        "shapes/fcn_hr18_bilinear_shapes.py",
        (
            "backbone.stage2.0.fuse_layers.0.1.2",
            *(f"backbone.stage3.0.fuse_layers.{to}.2" for to in ("0.1", "0.2", "1.2")),
            *(
                f"backbone.stage4.0.fuse_layers.{to}.2"
                for to in ("0.1", "0.2", "0.3", "1.2", "1.3", "2.3")
            ),
            # its call 0 keeps the size
            *(f"decode_head.upsampling.{number}" for number in (1, 2, 3)),
        ),
        False,
        groups=2,
    ),
    "unet": Host(
        "shapes/unet-s5-d16_fcn_bilinear_shapes.py",
        tuple(f"backbone.decoder.{level}.upsample.interp_upsample.0" for level in range(4)),
        False,
    ),
    "deeplabv3plus": Host(
        # call 0 makes a map of a single pixel
        "shapes/deeplabv3plus_r18-d8_bilinear_shapes.py",
        ("decode_head.upsampling.1",),
        False,
    ),
    "semantic-fpn": Host(
        "shapes/fpn_r18_nearest-bilinear_shapes.py",
        (
            *(f"neck.upsampling.{number}" for number in range(3)),
            *(f"decode_head.scale_heads.{at}" for at in ("1.1", "2.1", "2.3", "3.1", "3.3", "3.5")),
        ),
        False,
    ),
    "segformer": Host(
        "_base_/models/segformer_mit-b0_small.py",
        # call 0 keeps the size
        tuple(f"decode_head.upsampling.{number}" for number in (1, 2, 3)),
        False,
        dict(decode_head=dict(type="SegformerHead")),
    ),
    "upernet": Host(
        "_base_/models/upernet_r18_small.py",
        tuple(f"decode_head.upsampling.{number}" for number in range(6)),
        False,
        dict(decode_head=dict(type="UPerHead")),
    ),
}
DETECTORS = ("yolox", "rtmdet", "fpn", "nas-fpn")


@functools.cache
def load(name: str) -> Config:
    """The config of a host, with the model as upstream has it; do not change it."""
    cfg = Config.fromfile(CONFIGS / HOSTS[name].config, import_custom_modules=False)
    cfg.merge_from_dict(dict(model=copy.deepcopy(HOSTS[name].changes)))
    return cfg


def config_of(name: str) -> dict:
    """The config of a host's model as upstream has it."""
    return load(name).model.to_dict()


def build(name: str, settings: dict) -> nn.Module:
    with DefaultScope.overwrite_default_scope("mmdet" if name in DETECTORS else "mmseg"):
        return MODELS.build(Config(dict(model=settings)).model)


def swapped(name: str, **settings: Any) -> dict:
    """The config of a host as an `UpsampleModel`."""
    model = config_of(name)
    upsample_cfg = dict(type="DySample", groups=HOSTS[name].groups)
    own = dict(
        type="UpsampleModel",
        of=model["type"],
        upsample_cfg=upsample_cfg,
        image_size=HOSTS[name].example,
    )
    return {**model, **own, **settings}


def batch_of(name: str) -> dict:
    """Two images with annotations."""
    side = HOSTS[name].side
    if name in DETECTORS:
        return demo_mm_inputs(2, [(3, side, side)] * 2, num_items=[3, 3], num_classes=8)
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(2):
        labels = PixelData(data=torch.randint(0, 12, (1, side, side), generator=generator))
        samples.append(
            SegDataSample(
                gt_sem_seg=labels,
                metainfo=dict(
                    img_shape=(side, side), ori_shape=(side, side), pad_shape=(side,) * 2
                ),
            )
        )
    images = [
        torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=generator)
        for _ in samples
    ]
    return dict(inputs=images, data_samples=samples)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor of a model's result; of a data sample what was predicted."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from tensors_in(one)
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from tensors_in(value[key])
    elif isinstance(value, SegDataSample):
        yield value.seg_logits.data
    elif isinstance(value, InstanceData):
        for key in sorted(value.keys()):
            yield from tensors_in(value[key])
    elif hasattr(value, "pred_instances"):
        yield from tensors_in(value.pred_instances)


@torch.no_grad()
def results(model: nn.Module, name: str) -> dict[str, list[Tensor]]:
    """What a model makes of a batch, in all of mmengine's modes."""
    model.eval()
    found = {}
    for mode in ("tensor", "loss", "predict"):
        torch.manual_seed(0)  # of the samplers of boxes
        data = model.data_preprocessor(batch_of(name))
        found[mode] = list(tensors_in(model(**data, mode=mode)))
    return found


def upsamplers_in(model: nn.Module) -> dict[str, Upsampler]:
    return {name: one for name, one in model.named_modules() if isinstance(one, Upsampler)}


@pytest.mark.parametrize("name", HOSTS)
def test_a_swapped_model_is_what_it_was_until_it_is_trained(name):
    torch.manual_seed(0)
    model = build(name, config_of(name))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_var.uniform_(0.5, 1.5)
    own = build(name, swapped(name, preserve=True))
    assert isinstance(own, type(model))
    assert set(upsamplers_in(own)) == set(HOSTS[name].modules)

    # upstream's checkpoint has everything but the upsamplers
    report = own.load_state_dict(model.state_dict(), strict=False)
    assert report.unexpected_keys == []

    for key in report.missing_keys:
        assert any(key.startswith(f"{module}.") for module in HOSTS[name].modules), key

    before, after = results(model, name), results(own, name)
    for mode, tensors in before.items():
        assert tensors and len(tensors) == len(after[mode]), mode
        for one, other in zip(tensors, after[mode], strict=True):
            if HOSTS[name].exact:
                assert torch.equal(one, other), mode
            else:
                bound = 1e-5 * max(one.abs().max().item(), 1.0)
                torch.testing.assert_close(other, one, rtol=0, atol=bound, msg=mode)

    own.train()
    parameters = {
        f"{place}.{key}": parameter
        for place, upsampler in upsamplers_in(own).items()
        for key, parameter in upsampler.named_parameters()
    }
    start = {key: parameter.detach().clone() for key, parameter in parameters.items()}
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1)
    loss, _ = own.parse_losses(own(**own.data_preprocessor(batch_of(name)), mode="loss"))
    loss.backward()
    optimizer.step()
    assert parameters
    for key, parameter in parameters.items():
        assert not torch.equal(parameter, start[key]), f"{key} did not move"


ONE_LINE = """
_base_ = {base!r}
model = dict(
    type="UpsampleModel",
    of={of},
    upsample_cfg=dict(type="DySample"),
    targets="neck",
    image_size=(128, 160),
)
"""


@pytest.fixture
def one_line(tmp_path) -> Path:
    """A config of one line, on a base without a word of mmdysample but in custom_imports."""
    path = tmp_path / "config.py"
    base = str(CONFIGS / "shapes/yolox_s_nearest_shapes.py")
    path.write_text(ONE_LINE.format(base=base, of="{{_base_.model.type}}"))
    return path


def build_config(path: Path, options: dict | None = None) -> nn.Module:
    cfg = load_config(str(path), options, ("model",))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize("of", ["{{_base_.model.type}}", "_base_.model.type", "'YOLOX'"])
def test_configs_name_the_model_in_any_of_mmengines_forms(of, one_line):
    base = str(CONFIGS / "shapes/yolox_s_nearest_shapes.py")
    one_line.write_text(ONE_LINE.format(base=base, of=of))
    cfg = Config.fromfile(one_line)
    assert original_model(cfg.model) == Config.fromfile(base).model
    # as a run keeps it in its work dir
    cfg.dump(one_line.with_name("kept.py"))
    assert Config.fromfile(one_line.with_name("kept.py")).model == cfg.model


IMPORTING = """
from mmengine.config import read_base
with read_base():
    from .base import *
from mmdet.models import YOLOX
from mmdysample import DySample
from mmdysample.upsample_model import UpsampleModel
model.update(dict(type=UpsampleModel, of=YOLOX, upsample_cfg=dict(type=DySample), targets="neck"))
"""


def test_configs_that_import_their_base_and_what_a_run_keeps_of_them(tmp_path):
    path = CONFIGS / "shapes/yolox_s_nearest_shapes.py"
    Config.fromfile(path, import_custom_modules=False).dump(tmp_path / "base.py")
    (tmp_path / "config.py").write_text(IMPORTING)
    load_config(str(tmp_path / "config.py"), None, ("model",)).dump(tmp_path / "kept.py")
    for name in ("config.py", "kept.py"):
        cfg = load_config(str(tmp_path / name), None, ("model",))
        check_parts(cfg, ("model",))
        assert original_model(cfg.model)["type"] in (YOLOX, "mmdet.models.YOLOX"), name
        found = upsamplers_in(build_config(tmp_path / name))
        assert {key: type(one) for key, one in found.items()} == dict.fromkeys(
            HOSTS["yolox"].modules, DySample
        ), name


def test_configs_inherit_and_options_are_as_flat_as_before(one_line):
    heir = one_line.with_name("heir.py")
    text = 'model = dict(upsample_cfg=dict(type="CARAFE"), backbone=dict(deepen_factor=0.67))'
    heir.write_text(f"_base_ = {str(one_line)!r}\n{text}\n")
    options = {
        "model.neck.num_csp_blocks": 2,
        "model.upsample_cfg.up_kernel": 3,
        "model.targets": "neck.upsample",
    }
    model = build_config(heir, options)
    assert [len(block.blocks) for block in model.neck.top_down_blocks] == [2, 2]
    assert len(model.backbone.stage2[1].blocks) == 6  # of 9, deepened by 0.67
    upsamplers = upsamplers_in(model).values()
    assert {(type(one).__name__, one.up_kernel) for one in upsamplers} == {("CARAFE", 3)}

    other = build_config(one_line, {"model.upsample_cfg.type": "CARAFE"})
    assert {type(one).__name__ for one in upsamplers_in(other).values()} == {"CARAFE"}


def offsets(model: nn.Module) -> list[nn.Conv2d]:
    return [upsampler.offset for upsampler in upsamplers_in(model).values()]


def test_upsamplers_keep_their_own_initial_values(tmp_path):
    """Kaiming's are 0.18 here (1 x 1 convolution of 64 channels) and DySample's 0.001."""
    settings = swapped("yolox", init_cfg=dict(type="Kaiming", layer="Conv2d"))
    model = build("yolox", settings)
    before = model.bbox_head.multi_level_conv_cls[0].weight.detach().clone()
    model.init_weights()
    assert not torch.equal(model.bbox_head.multi_level_conv_cls[0].weight, before)
    for offset in offsets(model):
        assert 0.0008 < offset.weight.std() < 0.0012 and not offset.bias.any()

    with torch.no_grad():
        for upsampler in upsamplers_in(model).values():
            upsampler.offset.weight.fill_(0.25)
    path = str(tmp_path / "trained.pth")
    torch.save(dict(state_dict=model.state_dict()), path)
    pretrained = dict(type="Pretrained", checkpoint=path)
    again = build("yolox", {**settings, "init_cfg": [settings["init_cfg"], pretrained]})
    again.init_weights()
    for entry, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[entry]), entry


@pytest.mark.parametrize("trained", [False, True])
def test_upsamplers_in_a_pretrained_backbone(trained, tmp_path):
    """Where its checkpoint has them they are loaded, else they start as themselves."""
    source = build("unet", swapped("unet") if trained else config_of("unet"))
    state = source.backbone.state_dict()
    entry = "decoder.1.upsample.interp_upsample.0.offset.weight"
    assert (entry in state) == trained
    if trained:
        state[entry].fill_(0.25)
    path = str(tmp_path / "backbone.pth")
    torch.save(dict(state_dict=state), path)
    settings = swapped("unet", init_cfg=dict(type="Kaiming", layer="Conv2d"))
    settings["backbone"]["init_cfg"] = dict(type="Pretrained", checkpoint=path)
    model = build("unet", settings)
    model.init_weights()
    loaded = model.backbone.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    if not trained:
        for offset in offsets(model):
            assert 0.0008 < offset.weight.std() < 0.0012


@pytest.mark.parametrize(
    ("paramwise_cfg", "lr", "decays"),
    [
        (None, 0.01, (0.1, 0.1)),
        # of YOLOX and RTMDet
        (dict(norm_decay_mult=0.0, bias_decay_mult=0.0, bypass_duplicate=True), 0.01, (0.1, 0.0)),
        # as those of SegFormer
        (dict(custom_keys=dict(neck=dict(lr_mult=10.0, decay_mult=0.5))), 0.1, (0.05, 0.05)),
    ],
    ids=["plain", "yolox", "custom_keys"],
)
def test_the_optimizer_has_every_new_parameter_once(paramwise_cfg, lr, decays):
    model = build("yolox", swapped("yolox"))
    optimizer = dict(type="AdamW", lr=0.01, weight_decay=0.1)
    settings = dict(type="OptimWrapper", optimizer=optimizer, paramwise_cfg=paramwise_cfg)
    groups = build_optim_wrapper(model, settings).optimizer.param_groups
    new = [p for upsampler in upsamplers_in(model).values() for p in upsampler.parameters()]
    assert len(new) == 4  # weight and bias of two offsets
    for parameter in new:
        own = [g for g in groups for p in g["params"] if p is parameter]
        assert [group["lr"] for group in own] == [pytest.approx(lr)]
        assert own[0]["weight_decay"] == pytest.approx(decays[0 if parameter.dim() > 1 else 1])


def test_targets_and_guides():
    """FADE is guided by what the upsampled map is added to, or by what a config names."""
    finest = "neck.upsampling.2"
    settings = swapped("semantic-fpn", upsample_cfg=dict(type="FADE"), targets=[finest])
    model = build("semantic-fpn", settings)
    assert {name: up.guide_channels for name, up in upsamplers_in(model).items()} == {finest: 64}
    named = build("semantic-fpn", {**settings, "guides": {finest: "backbone.layer1"}})
    assert {name: up.guide_channels for name, up in upsamplers_in(named).items()} == {finest: 32}
    named.eval()
    assert named(torch.zeros(1, 3, 64, 96), mode="tensor").shape == (1, 12, 16, 24)


PSPNET = dict(
    type="EncoderDecoder",
    backbone=dict(type="ResNet", depth=18, base_channels=8, stem_channels=8),
    decode_head=dict(type="PSPHead", in_channels=64, in_index=3, channels=8, num_classes=2),
)
# What only the model itself knows. The rest is refused before: engine/checks/test_parts.py.
REFUSED = {
    "no-site": ("yolox", dict(targets="backbone"), "no upsampling found under 'backbone'; the"),
    "no-module": ("yolox", dict(targets="nekc"), r"no module .* \(did you mean 'neck'\?\)"),
    "groups": ("hrnet", dict(upsample_cfg=dict(type="DySample")), "18 channels, x2.* groups"),
    "image-size": ("yolox", dict(image_size=100), r"\(1, 3, 100, 100\) .*; set image_size to"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_what_the_model_is(case):
    name, settings, sentence = REFUSED[case]
    with pytest.raises(InvalidValue, match=sentence):
        build(name, swapped(name, **settings))


def test_pspnet_keeps_all_of_its_upsampling_and_says_why():
    """It enlarges nothing but maps of a fixed size, pooled from the whole image."""
    own = dict(type="UpsampleModel", of=PSPNET["type"], upsample_cfg=dict(type="DySample"))
    with pytest.raises(InvalidValue, match="no upsampling in the model can be swapped") as caught:
        build("pspnet", {**PSPNET, **own})
    reasons = str(caught.value).partition("(")[2].split("; ")
    assert len(reasons) == 4  # pooled to 1, 2, 3 and 6 pixels a side
    assert all("its ratio changes with the image size" in reason for reason in reasons)
    assert "decode_head.psp_modules" in reasons[0]


@pytest.mark.parametrize("of", ["FPN", "CrossEntropyLoss"])
def test_a_part_of_a_model_is_no_model(of):
    with pytest.raises(InvalidValue, match=f"of='{of}' is no detector or segmentor"):
        settings = dict(in_channels=[8], out_channels=8, num_outs=1) if of == "FPN" else {}
        build(
            "yolox",
            dict(type="UpsampleModel", of=of, upsample_cfg=dict(type="DySample"), **settings),
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("yolox_s_dysample_shapes", "epoch_1", "epoch_2"),
        ("rtmdet_tiny_dysample_shapes", "epoch_1", "epoch_2"),
        ("fcn_hr18_dysample-g2_shapes", "iter_1", "iter_2"),
        ("unet-s5-d16_fcn_dysample_shapes", "iter_1", "iter_2"),
        ("deeplabv3plus_r18-d8_dysample_shapes", "iter_1", "iter_2"),
        ("fpn_r18_dysample_shapes", "iter_1", "iter_2"),
    ],
)
def test_training_resuming_testing_and_predicting(name, first, last, tmp_path):
    """The resumed run ends with the weights of the one that was not interrupted."""
    shapes = tmp_path / "shapes"
    command = [sys.executable, ROOT / "tools/make_shapes.py", shapes, "--train", "8", "--val", "2"]
    subprocess.run(command, check=True, capture_output=True)
    cfg = load_config(str(CONFIGS / f"shapes/{name}.py"), None, ())
    reduce_config(cfg, shapes)
    if "max_epochs" in cfg.train_cfg:
        cfg.train_cfg.max_epochs = 2
    cfg.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=-1, save_optimizer=True)
    cfg.dump(tmp_path / "config.py")
    for arguments in (
        (TRAIN, "config.py", "--work-dir", "whole"),
        (TRAIN, "config.py", "--work-dir", "parts", "--resume", f"whole/{first}.pth"),
        (TEST, "config.py", f"parts/{last}.pth", "--work-dir", "parts"),
    ):
        result = shared_zygote().run(*arguments, cwd=tmp_path)
        assert result.status == 0, result.stderr
        assert re.search(
            r"^(neck|backbone|decode_head)\.\S+ .* DySample\(\d+\) ", result.stdout, re.MULTILINE
        )
    whole, parts = (
        load_checkpoint_file(tmp_path / run / f"{last}.pth")["state_dict"]
        for run in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[entry]) for entry, value in whole.items())

    inferencer = open_inferencer(tmp_path / "config.py", tmp_path / f"whole/{last}.pth", "cpu")
    for entry, value in inferencer.model.state_dict().items():
        assert torch.equal(value, whole[entry]), entry
    (image, *_) = sorted((shapes / "val2017").glob("*.jpg"))
    predictions = inferencer(str(image), return_vis=False)["predictions"]
    assert len(predictions if last.startswith("epoch") else [predictions]) == 1
