"""A trained model on single images, the same way for mmdet and mmseg."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.backend_bases import FigureCanvasBase
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmdysample.engine.checkpoint import CheckpointError, load_checkpoint_file
from mmdysample.engine.errors import UserError
from mmdysample.engine.families import family_of, read_data_sets


def load_model(cfg: Config, checkpoint: str, device: str | None = None) -> nn.Module:
    """The model of a config with a checkpoint's weights, ready to predict.

    Raises:
        UserError: the checkpoint cannot be read, or is of another model; the device is not there.
    """
    device = _device(device)
    _enter_family(cfg)
    loaded = load_checkpoint_file(checkpoint, "cpu")
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    try:
        model.load_state_dict(loaded.get("state_dict", loaded))
    except RuntimeError as error:
        reason = str(error).splitlines()[1:] or [str(error)]
        raise CheckpointError(
            f"checkpoint {checkpoint} does not fit the model of the config: {reason[0].strip()}"
        ) from error
    model.cfg = cfg
    return model.to(device).eval()


def read_image(path: str) -> np.ndarray:
    """(H, W, 3), uint8, BGR; UserError if there is no readable image."""
    if not os.path.isfile(path):
        raise UserError(f"image {path} does not exist")
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"image {path} cannot be read: it is damaged or in no known format")
    return image


def check_picture_path(path: str) -> str:
    """``path`` if matplotlib can write a picture there; UserError if not."""
    known = FigureCanvasBase.get_supported_filetypes()
    folder, name = os.path.split(os.path.abspath(path))
    if os.path.splitext(name)[1][1:].lower() not in known:
        raise UserError(f"--out {path}: the name must end in one of .{', .'.join(sorted(known))}")
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise UserError(f"--out {path}: the folder {folder} does not exist or is not writable")
    return path


def load_input(cfg: Config, image_path: str) -> dict[str, Any]:
    """An image through the config's test pipeline: ``inputs`` (3, H, W) and ``data_samples``."""
    read_image(image_path)
    _enter_family(cfg)
    dataset = read_data_sets(cfg.test_dataloader.dataset)[0]
    steps = [step for step in dataset.pipeline if "Annotations" not in str(step["type"])]
    return Compose(steps)(dict(img_path=image_path, img_id=0))


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or get_device())
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name} cannot be used: {reason}") from error
    return device


def _enter_family(cfg: Config) -> None:
    family_of(cfg).prepare()
    init_default_scope(cfg.default_scope)


@torch.no_grad()
def predict(model: nn.Module, data: dict[str, Any]) -> Any:
    """The data sample with predictions that ``model`` makes of :func:`load_input`'s result."""
    return model.test_step(pseudo_collate([data]))[0]
