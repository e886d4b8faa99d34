"""Configs of models whose upsampling is swapped: which, and that all else is that of the base."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import torch
from mmengine.hub import get_config
from mmengine.registry import MODELS, DefaultScope

from mmdysample import DySample, Upsampler
from mmdysample.upsample_model import is_upsample_model, original_model
from tests.configs.built import load
from tools.model_zoo.configs import model_configs

# Of each module of a stage, the branch that is added to and the one that is enlarged for that.
HRNET = {
    "stage2": ["0.1"],
    "stage3": ["0.1", "0.2", "1.2"],
    "stage4": ["0.1", "0.2", "0.3", "1.2", "1.3", "2.3"],
}


def hrnet(modules: list[int]) -> list[str]:
    """Names of the upsamplers with so many modules in each stage."""
    return [
        *(
            f"backbone.{stage}.{number}.fuse_layers.{to}.2"
            for (stage, branches), count in zip(HRNET.items(), modules, strict=True)
            for number in range(count)
            for to in branches
        ),
        *(f"decode_head.upsampling.{number}" for number in (1, 2, 3)),
    ]


UNET = [f"backbone.decoder.{level}.upsample.interp_upsample.0" for level in range(4)]
SEMANTIC_FPN = [
    *(f"neck.upsampling.{number}" for number in range(3)),
    *(f"decode_head.scale_heads.{at}" for at in ("1.1", "2.1", "2.3", "3.1", "3.3", "3.5")),
]


class Expected(NamedTuple):
    """What a config is made of: upstream's, or a baseline of this project; and what is swapped."""

    base: str
    upsamplers: list[str]


CONFIGS = {
    "yolox_s_dysample_8xb8-300e_coco": Expected(
        "mmdet::yolox/yolox_s_8xb8-300e_coco.py", ["neck.upsample.256", "neck.upsample.128"]
    ),
    "rtmdet_tiny_dysample_8xb32-300e_coco": Expected(
        "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py", ["neck.upsample.192", "neck.upsample.96"]
    ),
    "fcn_hr18_dysample-g2_4xb4-80k_ade20k-512x512": Expected(
        "mmseg::hrnet/fcn_hr18_4xb4-80k_ade20k-512x512.py", hrnet([1, 4, 3])
    ),
    "unet-s5-d16_fcn_dysample_4xb4-160k_cityscapes-512x1024": Expected(
        "mmseg::unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py", UNET
    ),
    "deeplabv3plus_r50-d8_dysample_4xb4-80k_ade20k-512x512": Expected(
        "mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py",
        ["decode_head.upsampling.1"],
    ),
    "fpn_r50_dysample_4xb4-160k_ade20k-512x512": Expected(
        "mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py", SEMANTIC_FPN
    ),
    "yolox_s_dysample_shapes": Expected(
        "yolox_s_nearest_shapes", ["neck.upsample.128", "neck.upsample.64"]
    ),
    "rtmdet_tiny_dysample_shapes": Expected(
        "rtmdet_tiny_nearest_shapes", ["neck.upsample.128", "neck.upsample.64"]
    ),
    "fcn_hr18_dysample-g2_shapes": Expected("fcn_hr18_bilinear_shapes", hrnet([1, 1, 1])),
    "unet-s5-d16_fcn_dysample_shapes": Expected("unet-s5-d16_fcn_bilinear_shapes", UNET),
    "deeplabv3plus_r18-d8_dysample_shapes": Expected(
        "deeplabv3plus_r18-d8_bilinear_shapes", ["decode_head.upsampling.1"]
    ),
    "fpn_r18_dysample_shapes": Expected("fpn_r18_nearest-bilinear_shapes", SEMANTIC_FPN),
}


def test_every_config_of_a_swapped_model_is_tested():
    texts = {name: path.read_text() for name, path in model_configs().items()}
    assert {name for name, text in texts.items() if "UpsampleModel" in text} == CONFIGS.keys()


def plain(value: Any) -> Any:
    """A part of a config without the scopes that mmengine adds to what is inherited."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items() if key != "_scope_"}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("name", CONFIGS)
def test_all_but_the_upsampling_is_that_of_the_base(name):
    """Also how it is trained."""
    base = CONFIGS[name].base
    cfg, own = (get_config(base) if "::" in base else load(base)), load(name)
    assert is_upsample_model(own.model)
    own_model, model = plain(original_model(own.model)), plain(cfg.model)
    for each in (own_model, model):
        each["backbone"].pop("init_cfg", None)  # which `load` leaves out
    assert own_model == model
    for key in ("train_cfg", "optim_wrapper", "param_scheduler", "train_dataloader"):
        assert plain(own[key]) == plain(cfg[key]), key


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n.endswith("_shapes") else [pytest.mark.slow]) for n in CONFIGS],
)
def test_what_is_swapped(name):
    cfg = load(name)
    with torch.device("meta"), DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(copy.deepcopy(cfg.model))
    found = {name: one for name, one in model.named_modules() if isinstance(one, Upsampler)}
    assert sorted(found) == sorted(CONFIGS[name].upsamplers)
    groups = 2 if "dysample-g2" in name else 4
    assert {(type(one), one.groups) for one in found.values()} == {(DySample, groups)}
