"""How users load a checkpoint into a model of mmdet or mmseg."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.runner import load_checkpoint
from torch import nn


def load_with_torch(model: nn.Module, state: dict, directory: Path) -> None:
    model.load_state_dict(state, strict=False)


def load_with_torch_strictly(model: nn.Module, state: dict, directory: Path) -> None:
    model.load_state_dict(state, strict=True)


def load_file_with_mmengine(model: nn.Module, state: dict, directory: Path) -> None:
    torch.save(dict(state_dict=state), directory / "model.pth")
    load_checkpoint(model, str(directory / "model.pth"), map_location="cpu")


LENIENT = [load_with_torch, load_file_with_mmengine]
LOADERS = [load_with_torch_strictly, *LENIENT]
