"""mmdet's and mmseg's inferencers, with this project's configs by name and with safe loading.

from mmdysample.engine.inferencers import open_inferencer

inferencer = open_inferencer("faster-rcnn_r50_fpn_dysample_1x_coco", "epoch_12.pth")
inferencer("images/", out_dir="predictions")
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import mmengine
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from mmengine.runner import CheckpointLoader
from torch import nn

import mmdysample
import mmdysample.engine.config  # mmengine's list_models knows "mmdysample" then
from mmdysample.engine.checkpoint import CheckpointError, check_is_whole, install_safe_loading
from mmdysample.engine.errors import UserError
from mmdysample.engine.families import family_of
from mmdysample.registry import did_you_mean

INFERENCERS = {
    # mmdet's own with panoptic segments
    "mmdet": ("mmdysample.mmdet.panoptic.inferencer", "PanopticInferencer"),
    "mmseg": ("mmseg.apis", "MMSegInferencer"),
}


def config_path(name: str) -> str:
    """The file of a config of this project, by the name that a metafile gives it.

    ``BaseInferencer.list_models("mmdysample")`` of mmengine lists the names.

    Raises:
        UserError: there is no config of this name.
    """
    package = Path(mmdysample.__file__).parent
    # A checkout has beside the package what an installed package has in .mim.
    checkout = package.parent
    root = checkout if (checkout / "model-index.yml").is_file() else package / ".mim"
    metafiles = mmengine.load(root / "model-index.yml")["Import"]
    models = [model for path in metafiles for model in mmengine.load(root / path)["Models"]]
    paths = {model["Name"]: model["Config"] for model in models}
    if name not in paths:
        raise UserError(
            f"{name!r} is neither a config file nor a model of mmdysample"
            f"{did_you_mean(name, paths)}"
        )
    return str(root / paths[name])


def open_inferencer(
    model: str, weights: str | None = None, device: str | None = None, **settings: Any
) -> BaseInferencer:
    """mmdet's DetInferencer or mmseg's MMSegInferencer, whichever the config is for.

    The first is extended by panoptic segmentation without panopticapi.

    Args:
        model: a config file, or the name of a config of this project.
        weights: a checkpoint; without one the weights are random.
        device: such as 'cpu'; by default the accelerator that is there.
        settings: further arguments of the inferencer.

    Raises:
        UserError: there is no such model or checkpoint, or the config is of another package.
    """
    path = model if os.path.isfile(model) else config_path(model)
    family = family_of(Config.fromfile(path, import_custom_modules=False))
    family.prepare()
    if weights is not None and "://" not in weights:
        check_is_whole(weights)
    install_safe_loading()
    module, name = INFERENCERS[family.package]
    inferencer = getattr(importlib.import_module(module), name)
    opened = inferencer(model=path, weights=weights, device=device, **settings)
    if weights is not None:
        _check_fit(opened.model, weights)
    return opened


def _check_fit(model: nn.Module, weights: str) -> None:
    """Refuse a checkpoint that has left parameters at random; mmengine only logs their names."""
    checkpoint = CheckpointLoader.load_checkpoint(weights, map_location="cpu")
    state = checkpoint.get("state_dict", checkpoint)
    shapes = {name.removeprefix("module."): value.shape for name, value in state.items()}
    needed = {name: value.shape for name, value in model.named_parameters()}
    # Older names, which a module understands while it loads, end alike.
    endings = {(name.rpartition(".")[2], shape) for name, shape in shapes.items()}
    left = [
        name
        for name, shape in needed.items()
        if shapes.get(name) != shape and (name.rpartition(".")[2], shape) not in endings
    ]
    if left:
        raise CheckpointError(
            f"checkpoint {weights} does not fit this model: {len(left)} of its {len(needed)} "
            f"parameters are missing there or have another shape, such as {left[0]}"
        )
