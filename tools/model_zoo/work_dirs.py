"""Trainings of the project's configs, found in work dirs.

Each start of tools/train.py leaves a directory in its work dir, named by its time: run.json with
the settings, and evaluations among the scalars in vis_data/scalars.json, a JSON object a line.
All of it is untrusted input.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from mmengine.config import Config

from mmdysample.engine.errors import UserError
from mmdysample.engine.record import FILE_NAME, plain

from .runs import Run
from .tables import METRICS, MIOU, SAD

# The metric whose best evaluation counts, by the beginning of a config's name; of all other configs
# the last one counts. So the papers' authors report these.
BEST = {"segformer": MIOU, "a2u-matting": SAD}
# The settings that a result depends on, by their first key.
DECISIVE = {
    *("model", "train_cfg", "optim_wrapper", "param_scheduler", "custom_hooks", "load_from"),
    *("train_dataloader", "val_dataloader", "val_evaluator"),
}
# Of these, where the data lies and how it is loaded does not matter; `_check_batch` has the batch.
FREE = {
    *("data_root", "backend_args", "file_client_args", "batch_size", "num_workers"),
    *("persistent_workers", "pin_memory", "prefetch_factor", "classwise", "outfile_prefix"),
    *("output_dir", "keep_results"),
}
# Of these the directory is free; what has another name holds other annotations or backgrounds.
NAMED = ("ann_file", "seg_prefix", "bg_path")
# Of these the whole path or address is, but not whether there is one.
WEIGHTS = ("checkpoint", "pretrained")

Settings = dict[tuple, Any]  # place of a value, such as ("train_cfg", "max_epochs"), and the value


class Start(NamedTuple):
    """A start of tools/train.py: its directory and what run.json says, None if it is damaged."""

    directory: Path
    record: dict[str, Any] | None


def find_runs(
    directory: Path, configs: dict[str, Path], notice: Callable[[str], None]
) -> list[Run]:
    """The runs of ``configs`` in work dirs at or below ``directory``.

    What is left out, and why, is given to ``notice``, a sentence each.

    Raises:
        UserError: there is no training, or none that counts.
    """
    if not directory.is_dir():
        what = "is a file" if directory.exists() else "does not exist"
        raise UserError(f"work dir {directory} {what}")
    work_dirs = sorted({path.parent.parent for path in directory.rglob(FILE_NAME)})
    if not work_dirs:
        raise UserError(f"{directory} holds no training of tools/train.py")
    runs = []
    for training in (training for path in work_dirs for training in trainings_in(path)):
        try:
            runs.append(run_of(training, configs))
        except (ValueError, RecursionError) as error:
            notice(f"{training[0].directory} is left out: {error}")
    if not runs:
        raise UserError(f"no training in {directory} counts as a run of a config of this project")
    return runs


def trainings_in(work_dir: Path) -> list[list[Start]]:
    """The starts in a work dir in the order of time; a training is a start and what resumed it."""
    trainings: list[list[Start]] = []
    for path in sorted(work_dir.glob(f"*/{FILE_NAME}")):
        start = Start(path.parent, read_record(path))
        if trainings and start.record and start.record["resumed_from"] is not None:
            trainings[-1].append(start)
        else:
            trainings.append([start])
    return trainings


def read_record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        kinds = dict(config=str, processes=int, resumed_from=str | None, settings=dict)
        whole = all(isinstance(record[key], kind) for key, kind in kinds.items())
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    return record if whole else None


def run_of(training: list[Start], configs: dict[str, Path]) -> Run:
    """What a training came to.

    Raises:
        ValueError: it does not count, and why.
    """
    evaluations: dict[int, dict[str, float]] = {}
    for start in training:
        check_start(start, training[0], configs)
        evaluations.update(read_evaluations(start.directory / "vis_data" / "scalars.json"))
    config = training[0].record["config"]
    own = settings_of(configs[config])
    length = own.get(("train_cfg", "max_epochs")) or own[("train_cfg", "max_iters")]
    if length not in evaluations:
        raise ValueError(
            f"it was stopped before the evaluation after the last of its {length} epochs or "
            f"iterations; the last evaluation was after {max(evaluations, default='none')}"
        )
    step = reported_step(config, evaluations, length)
    directory = training[0].directory
    return Run(config, f"{directory.parent.name}/{directory.name}", step, evaluations[step])


def reported_step(config: str, evaluations: dict[int, dict[str, float]], last: int) -> int:
    """The step of the evaluation that is shown: the last, or the best of those in `BEST`.

    Of equally good ones it is the latest. One that lacks the metric is worse than any other.
    """
    for start, metric in BEST.items():
        if config.startswith(start):
            sign = -1.0 if metric.lower_is_better else 1.0
            return max(
                evaluations,
                key=lambda at: (sign * evaluations[at].get(metric.key, -sign * math.inf), at),
            )
    return last


def check_start(start: Start, first: Start, configs: dict[str, Path]) -> None:
    """Raise ValueError unless a start of a training is of one config, with its settings."""
    record = start.record
    if record is None:
        raise ValueError(f"{start.directory / FILE_NAME} is damaged")
    config, resumed_from = record["config"], record["resumed_from"]
    if config not in configs:
        raise ValueError(f"{config} is not a config of this project")
    if config != first.record["config"]:
        raise ValueError(f"it was resumed with another config, {config}")
    if resumed_from is not None and (start is first or "/" in resumed_from):
        raise ValueError(f"it continues {resumed_from}, whose training is not in this work dir")
    check_settings(dict(flat(record["settings"])), settings_of(configs[config]), record)


@functools.cache
def settings_of(config_path: Path) -> Settings:
    """The settings of a config, without importing what it needs to be built."""
    return dict(flat(plain(Config.fromfile(config_path, import_custom_modules=False))))


def flat(value: Any, place: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Every value inside of dicts and lists, and its place."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, (*place, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from flat(inner, (*place, number))
    else:
        yield place, value


def check_settings(used: Settings, own: Settings, record: dict[str, Any]) -> None:
    """Raise ValueError unless a training had the settings of its config."""
    _check_batch(used, own, record["processes"])
    if record["resumed_from"] is not None:
        used[("load_from",)] = own.get(("load_from",))
    for place in {**own, **used}:
        if place[0] in DECISIVE and FREE.isdisjoint(place):
            ours, theirs = (_what_counts(place, values.get(place)) for values in (used, own))
            if ours != theirs:
                raise ValueError(
                    f"its settings are not those of {record['config']}: "
                    f"{'.'.join(map(str, place))} is {_short(ours)}, not {_short(theirs)}"
                )


def _check_batch(used: Settings, own: Settings, processes: int) -> None:
    """Raise ValueError unless the learning rate fits the images of a training step."""
    base = own.get(("auto_scale_lr", "base_batch_size"))
    if used.get(("auto_scale_lr", "enable")):
        given = used.get(("auto_scale_lr", "base_batch_size"))
        if given != base:
            raise ValueError(f"auto_scale_lr.base_batch_size is {_short(given)}, not {base}")
        return
    images = used.get(("train_dataloader", "batch_size"))
    if not isinstance(images, int) or images * processes != base:
        raise ValueError(
            f"the batch is {_short(images)} images on each of {processes} GPUs, not {base} in all, "
            "and --auto-scale-lr was not given"
        )


def _what_counts(place: tuple, value: Any) -> Any:
    """What has to be the same of a value: of a path its name, of weights that there are any."""
    if isinstance(value, str) and place[-1] in NAMED:
        return PurePath(value).name
    if isinstance(value, str) and value and place[-1] in WEIGHTS:
        return "pretrained weights"
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_evaluations(path: Path) -> dict[int, dict[str, float]]:
    """The metrics of the tables in a file of scalars, by the step after which they were measured.

    A line that is cut off, as by a kill, holds none.
    """
    if not path.is_file():
        return {}
    evaluations: dict[int, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line, parse_int=float)
        except (ValueError, RecursionError):
            continue
        if not isinstance(entry, dict) or "loss" in entry:  # of the training itself
            continue
        step = entry.get("step")
        found = {metric.key: entry.get(metric.key) for metric in METRICS}
        metrics = {
            key: value
            for key, value in found.items()
            if isinstance(value, float) and math.isfinite(value)
        }
        if metrics and isinstance(step, float) and step.is_integer():
            evaluations[int(step)] = metrics
    return evaluations
