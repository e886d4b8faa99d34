"""metafile.yml of each folder of configs, and model-index.yml, in OpenMMLab's format.

mim and mmengine's inferencers read them. There are results in them only of our own runs, and no
weights until there are any.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from .configs import ROOT, Entry
from .logs import Run
from .results import summarize
from .tables import BY_HEADING

INDEX = ROOT / "model-index.yml"
HEADER = "# Written by `python tools/results.py --write`.\n"
INDEX_HEADER = """\
# Read by OpenMMLab's tools (mim, mmengine's `mmdysample::` configs). Each entry is a metafile with
# the models of one folder of configs/. Written by `python tools/results.py --write`.
"""
DYSAMPLE = {
    "Title": "Learning to Upsample by Learning to Sample",
    "URL": "https://arxiv.org/abs/2308.15085",
}
# Task and name of a metric in OpenMMLab's metafiles
METRICS = {
    "AP": ("Object Detection", "box AP"),
    "mask AP": ("Instance Segmentation", "mask AP"),
    "mIoU": ("Semantic Segmentation", "mIoU"),
    "bIoU": ("Semantic Segmentation", "bIoU"),
    "PQ": ("Panoptic Segmentation", "PQ"),
}


def texts(runs: list[Run], entries: dict[str, Entry]) -> dict[Path, str]:
    """What is to be in each file."""
    folders: dict[Path, dict[str, Entry]] = {}
    for name, entry in entries.items():
        folders.setdefault(entry.path.parent, {})[name] = entry
    written = {
        folder / "metafile.yml": HEADER + _dump(_metafile(folder.name, own, runs))
        for folder, own in sorted(folders.items())
    }
    index = {"Import": [path.relative_to(ROOT).as_posix() for path in written]}
    return written | {INDEX: INDEX_HEADER + _dump(index)}


def _dump(value: dict) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=100, allow_unicode=True)


def _metafile(folder: str, entries: dict[str, Entry], runs: list[Run]) -> dict[str, Any]:
    collection = folder  # what mim search --model takes
    data = sorted({entry.data for entry in entries.values()})
    about = {"Name": collection, "Metadata": {"Training Data": data}, "Paper": dict(DYSAMPLE)}
    models = [_model(name, entry, collection, runs) for name, entry in entries.items()]
    return {"Collections": [about], "Models": models}


def _model(name: str, entry: Entry, collection: str, runs: list[Run]) -> dict[str, Any]:
    model: dict[str, Any] = {
        "Name": name,
        "In Collection": collection,
        "Config": entry.path.relative_to(ROOT).as_posix(),
        "Metadata": {
            "Training Data": entry.data,
            entry.unit: entry.length,
            "Architecture": entry.architecture,
            "Upsampler": entry.upsampler,
            "Upsampler Parameters": entry.weights,
            "Metrics": entry.metrics,
        },
    }
    measured = _results(name, entry, runs)
    if measured:
        model["Results"] = measured
    # mmengine's inferencers read this key of every model.
    model["Weights"] = None
    return model


def _results(name: str, entry: Entry, runs: list[Run]) -> list[dict[str, Any]]:
    """Means over our runs of a config."""
    shown = tuple(BY_HEADING[heading] for heading in entry.metrics)
    own = [run for run in runs if run.config == name]
    tasks: dict[str, dict[str, float]] = {}
    for heading, result in summarize(own, shown).get(name, {}).items():
        task, metric = METRICS[heading]
        tasks.setdefault(task, {})[metric] = round(result.mean, 2)
    return [
        {"Task": task, "Dataset": entry.data, "Metrics": metrics} for task, metrics in tasks.items()
    ]
