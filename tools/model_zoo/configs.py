"""The project's configs by name, and what is said of them.

What it says of a config is derived from the config, which takes a third of a second, and kept in
the metafile of its folder.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmdysample import Upsampler
from mmdysample.engine.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
DATASETS = {"Coco": "COCO", "ADE20K": "ADE20K"}  # part of a data set's type -> its name
# The headings of the metrics that are shown of a config that no table has, by its evaluator.
EVALUATORS = {
    "PanopticQualityMetric": ("PQ",),
    "CocoPanopticMetric": ("PQ",),
    "IoUMetric": ("mIoU",),
    "BoundaryIoUMetric": ("mIoU", "bIoU"),
}
IN_MASK_HEAD = "also in place of the mask head's transposed convolution"
COCO_KINDS = {"bbox": "AP", "segm": "mask AP"}


class Entry(NamedTuple):
    """What is said of a config.

    Args:
        path: its file.
        data: what it is trained on.
        unit, length: of its training, 'Epochs' or 'Iterations' and how many.
        architecture: model, backbone and neck as its name has them.
        upsampler: type and settings.
        weights: what its upsamplers add, without biases and normalisation as the papers count.
        metrics: headings of what it is evaluated by.
    """

    path: Path
    data: str
    unit: str
    length: int
    architecture: list[str]
    upsampler: str
    weights: int
    metrics: list[str]


def model_configs(folder: Path = CONFIGS) -> dict[str, Path]:
    """The file of each config that trains a model, by its name; `_base_` has parts of them."""
    paths = sorted(
        path for path in folder.rglob("*.py") if path.relative_to(folder).parts[0] != "_base_"
    )
    return {path.stem: path for path in paths}


@functools.cache
def load(path: Path) -> Config:
    """A config, without importing what it needs to be built. It is shared: do not change it."""
    return Config.fromfile(path, import_custom_modules=False)


def upsample_settings(value: Any) -> list[dict]:
    """Every ``upsample_cfg`` inside of a config's model."""
    if isinstance(value, list | tuple):
        return [found for item in value for found in upsample_settings(item)]
    if not isinstance(value, dict):
        return []
    own = [value["upsample_cfg"]] if value.get("upsample_cfg") else []
    return own + [found for item in value.values() for found in upsample_settings(item)]


def derive(path: Path) -> Entry:
    """What a config says of itself."""
    cfg = load(path)
    unit = "Epochs" if "max_epochs" in cfg.train_cfg else "Iterations"
    return Entry(
        path,
        training_data(cfg.train_dataloader.dataset),
        unit,
        cfg.train_cfg["max_epochs" if unit == "Epochs" else "max_iters"],
        architecture(path.stem),
        upsampler(cfg),
        added_weights(cfg),
        list(dict.fromkeys(metrics(cfg.val_evaluator))),
    )


def read_entries(folder: Path = CONFIGS) -> dict[str, Entry]:
    """What the metafiles below ``folder`` say of configs, by the configs' names.

    Raises:
        UserError: one of them is damaged.
    """
    entries: dict[str, Entry] = {}
    for path in sorted(folder.glob("*/metafile.yml")):
        try:
            entries.update(_entries_in(path, folder.parent))
        except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is damaged: python tools/results.py --write writes it anew"
            ) from error
    return entries


def _entries_in(metafile: Path, root: Path) -> dict[str, Entry]:
    entries = {}
    for model in yaml.safe_load(metafile.read_text(encoding="utf-8"))["Models"]:
        about = model["Metadata"]
        unit = "Epochs" if "Epochs" in about else "Iterations"
        entries[model["Name"]] = Entry(
            root / model["Config"],
            about["Training Data"],
            unit,
            about[unit],
            about["Architecture"],
            about["Upsampler"],
            about["Upsampler Parameters"],
            about["Metrics"],
        )
    return entries


def added_weights(cfg: Config) -> int:
    """Weights of a config's upsamplers, without biases and normalisation.

    Nothing is computed: there is no memory on the device 'meta'. Only the parts of the model that
    have upsamplers are built.
    """
    for name in cfg.custom_imports["imports"]:
        importlib.import_module(name)
    parts = [part for part in cfg.model.values() if upsample_settings(part)]
    with torch.device("meta"), DefaultScope.overwrite_default_scope(cfg.default_scope):
        built = [MODELS.build(part) for part in parts]
    upsamplers = {m for part in built for m in part.modules() if isinstance(m, Upsampler)}
    return sum(p.numel() for up in upsamplers for p in up.parameters() if p.dim() > 1)


def training_data(dataset: dict) -> str:
    """Name of the data set inside of wrappers such as RepeatDataset."""
    while "dataset" in dataset:
        dataset = dataset["dataset"]
    if "shapes" in str(dataset.get("data_root")):
        return "Shapes"
    for part, name in DATASETS.items():
        if part in dataset["type"]:
            return name
    raise UserError(f"name the data of {dataset['type']} in DATASETS of tools/model_zoo/configs.py")


def architecture(name: str) -> list[str]:
    """What a config's name says of its model: all before the upsampler."""
    model, backbone, *rest = name.split("_")
    neck = [part for part in rest[:1] if part.startswith("fpn")]
    return [model, backbone, *neck]


def upsampler(cfg: Config) -> str:
    settings = dict(upsample_settings(cfg.model)[0])
    text = settings.pop("type") + "".join(f", {key}={value}" for key, value in settings.items())
    mask_head = (cfg.model.get("roi_head") or {}).get("mask_head") or {}
    return f"{text}; {IN_MASK_HEAD}" if mask_head.get("upsample_cfg") else text


def metrics(evaluators: dict | list) -> list[str]:
    """Headings of what evaluators measure."""
    if isinstance(evaluators, list | tuple):
        return [heading for each in evaluators for heading in metrics(each)]
    kind = evaluators["type"].rpartition(".")[2]
    if kind != "CocoMetric":
        if kind not in EVALUATORS:
            raise UserError(f"say what {kind} measures in EVALUATORS of tools/model_zoo/configs.py")
        return list(EVALUATORS[kind])
    kinds = evaluators["metric"]
    return [COCO_KINDS[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds)]
