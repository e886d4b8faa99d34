"""The project's configs, loaded and built once for all tests. What they return is shared."""

from __future__ import annotations

import copy
import functools

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmdysample import Upsampler
from tools.model_zoo.configs import ROOT, model_configs

CONFIGS = ROOT / "configs"
SMALL_BACKBONE = dict(type="ResNet", depth=18)
_BACKBONES: dict[str, nn.Module] = {}


@functools.cache
def load(name: str) -> Config:
    """A config by its name, without pretrained weights; do not change it."""
    cfg = Config.fromfile(model_configs()[name])
    for part in ("backbone", "pretrained"):  # weights to download are not built, nor needed
        if isinstance(cfg.model.get(part), dict):
            cfg.model[part].init_cfg = None
    return cfg


@functools.cache
def build(name: str) -> nn.Module:
    """The model of a config, without memory; mmseg's without their own backbone.

    MiT and Swin compute their drop rates with tensors, which have to have values.
    """
    cfg = load(name)
    model = copy.deepcopy(cfg.model)  # which building changes
    if cfg.default_scope == "mmseg":
        build_backbone(cfg)
        model.backbone = SMALL_BACKBONE
    with torch.device("meta"), DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(model)


def build_backbone(cfg: Config) -> nn.Module:
    """The backbone of a config of mmseg, once for all configs that have the same."""
    settings = cfg.model.backbone
    if str(settings) not in _BACKBONES:
        with DefaultScope.overwrite_default_scope("mmseg"):
            _BACKBONES[str(settings)] = MODELS.build(copy.deepcopy(settings))
    return _BACKBONES[str(settings)]


def host_of(model: nn.Module) -> nn.Module:
    """The part of a model that holds the stages."""
    host = model.decode_head if hasattr(model, "decode_head") else model.neck
    return getattr(host, "pixel_decoder", host)


def count_weights(module: nn.Module) -> int:
    """Weights of the upsamplers inside, without biases and normalization: as most tables count."""
    return sum(p.numel() for p in parameters_of_upsamplers(module) if p.dim() > 1)


def count_upsamplers(module: nn.Module) -> int:
    """All parameters of the upsamplers inside."""
    return sum(p.numel() for p in parameters_of_upsamplers(module))


def parameters_of_upsamplers(module: nn.Module) -> list[nn.Parameter]:
    upsamplers = [m for m in module.modules() if isinstance(m, Upsampler)]
    return [p for upsampler in upsamplers for p in upsampler.parameters()]
