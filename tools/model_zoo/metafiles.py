"""metafile.yml of each family and model-index.yml, in OpenMMLab's format.

mim and mmengine's inferencers read them. There are results in them only of our own runs, and no
weights until there are any. What they say of a config is what its name says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .configs import ROOT, model_configs
from .runs import Run, result_of
from .tables import AP, BIOU, DEPTH, MASK_AP, MATTING, MIOU, PANOPTIC

INDEX = ROOT / "model-index.yml"
HEADER = "# Written by `python tools/results.py --record`.\n"
INDEX_HEADER = """\
# Read by OpenMMLab's tools (mim, mmengine's `mmdysample::` configs). Each entry is a metafile with
# the models of one directory of configs/. Written by `python tools/results.py --record`.
"""
DYSAMPLE = {
    "Title": "Learning to Upsample by Learning to Sample",
    "URL": "https://arxiv.org/abs/2308.15085",
}
SAPA = {
    "Title": "SAPA: Similarity-Aware Point Affiliation for Feature Upsampling",
    "URL": "https://arxiv.org/abs/2209.12866",
}
# The paper that compares upsamplers in the models of a directory of configs; DYSAMPLE's in others.
PAPERS = {"a2u_matting": SAPA, "bts": SAPA, "segnet": SAPA}
DATA = {
    "ade20k": "ADE20K",
    "cityscapes": "Cityscapes",
    "coco": "COCO",
    "comp1k": "Composition-1k",
    "nyu": "NYU Depth V2",
    "shapes": "Shapes",
    "sunrgbd": "SUN RGB-D",
}
# Metric, and its task and name in OpenMMLab's metafiles.
RESULTS = (
    (AP, "Object Detection", "box AP"),
    (MASK_AP, "Instance Segmentation", "mask AP"),
    (MIOU, "Semantic Segmentation", "mIoU"),
    (BIOU, "Semantic Segmentation", "bIoU"),
    (PANOPTIC[0], "Panoptic Segmentation", "PQ"),
    *((metric, "Depth Estimation", metric.heading) for metric in DEPTH.values()),
    *((metric, "Matting", metric.heading) for metric in MATTING),
)


class Parts(NamedTuple):
    """What a config's name says: ``model_backbone[_neck]_upsampler[_schedule]_data``."""

    architecture: list[str]
    upsampler: str
    data: str


def parts_of(name: str) -> Parts:
    parts = name.split("_")
    data = DATA[parts.pop().partition("-")[0]]
    if data != "Shapes":
        parts.pop()  # schedule
    neck = 3 if parts[2].startswith("fpn") else 2
    return Parts(parts[:neck], " ".join(parts[neck:]), data)


def metafiles(runs: list[Run]) -> dict[Path, str]:
    """The files, and what is to be in each."""
    families: dict[Path, dict[str, Path]] = {}
    for name, path in model_configs().items():
        families.setdefault(path.parent / "metafile.yml", {})[name] = path
    index = {"Import": [path.relative_to(ROOT).as_posix() for path in families]}
    return {
        **{path: HEADER + _dump(_metafile(own, runs)) for path, own in families.items()},
        INDEX: INDEX_HEADER + _dump(index),
    }


def _dump(value: dict) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=100, allow_unicode=True)


def _metafile(configs: dict[str, Path], runs: list[Run]) -> dict[str, Any]:
    models = [_model(name, path, runs) for name, path in configs.items()]
    name = models[0]["In Collection"]
    collection = {
        "Name": name,
        "Metadata": {"Training Data": sorted({parts_of(config).data for config in configs})},
        "Paper": dict(PAPERS.get(name, DYSAMPLE)),
    }
    return {"Collections": [collection], "Models": models}


def _model(name: str, path: Path, runs: list[Run]) -> dict[str, Any]:
    architecture, upsampler, data = parts_of(name)
    model = {
        "Name": name,
        "In Collection": path.parent.name,  # what `mim search --model` takes
        "Config": path.relative_to(ROOT).as_posix(),
        "Metadata": {"Training Data": data, "Architecture": architecture, "Upsampler": upsampler},
    }
    tasks: dict[str, dict[str, float]] = {}
    for metric, task, heading in RESULTS:
        result = result_of(name, metric, runs)
        if result is not None:
            tasks.setdefault(task, {})[heading] = round(result.mean, metric.decimals)
    if tasks:
        model["Results"] = [
            {"Task": task, "Dataset": data, "Metrics": metrics} for task, metrics in tasks.items()
        ]
    # mmengine's inferencers read this key of every model.
    model["Weights"] = None
    return model
