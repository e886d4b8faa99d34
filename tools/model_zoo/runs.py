"""Results of our own trainings: kept in runs.csv, mean and standard deviation."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mmdysample.atomic import write_text
from mmdysample.engine.errors import UserError

from .tables import Metric

RUNS = Path(__file__).parent / "runs.csv"
COLUMNS = ("config", "run", "step", "metric", "value")


class Run(NamedTuple):
    """The evaluation of a training that is shown.

    Args:
        config: name of the config.
        name: work dir and start.
        step: after which epoch or iteration it was evaluated.
        metrics: values by the metrics' names in logs.
    """

    config: str
    name: str
    step: int
    metrics: dict[str, float]


class Result(NamedTuple):
    """Mean over runs, in the metric's unit, and their standard deviation; None of a single run."""

    mean: float
    spread: float | None
    runs: int


def result_of(config: str, metric: Metric, runs: Iterable[Run]) -> Result | None:
    """What the runs of a config come to; None if there is none."""
    values = [
        run.metrics[metric.key] * metric.factor
        for run in runs
        if run.config == config and metric.key in run.metrics
    ]
    if not values:
        return None
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Result(statistics.fmean(values), spread, len(values))


def merge(kept: Iterable[Run], new: Iterable[Run]) -> list[Run]:
    """All runs, in order; a new one takes the place of the kept one of the same name."""
    runs = {(run.config, run.name): run for run in [*kept, *new]}
    return [runs[key] for key in sorted(runs)]


def read_runs(path: Path = RUNS) -> list[Run]:
    """The runs that were kept.

    Raises:
        UserError: the file is not one that `write_runs` wrote.
    """
    runs: dict[tuple[str, str], Run] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            if tuple(next(reader, ())) != COLUMNS:
                raise ValueError("other columns")
            for config, name, step, metric, value in reader:
                run = runs.setdefault((config, name), Run(config, name, int(step), {}))
                run.metrics[metric] = float(value)
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is damaged: each line must have {', '.join(COLUMNS)}, a whole number for "
            "step and a number for value"
        ) from error
    return list(runs.values())


def write_runs(runs: Iterable[Run], path: Path = RUNS) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for run in runs:
        for key, value in sorted(run.metrics.items()):
            writer.writerow([run.config, run.name, run.step, key, value])
    write_text(path, text.getvalue())
