"""What our runs of a config come to, and the file that keeps them."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from mmdysample.engine.atomic import write_text

from .logs import Run
from .tables import TABLES, Metric

RUNS = Path(__file__).parent / "runs.csv"
COLUMNS = ("config", "run", "seed", "length", "step", "metric", "value")
PICKS = ("last", "best")
# What is kept of an evaluation; others can be had from the logs.
KEPT = {metric.key for table in TABLES for metric in table.metrics} | {"mAcc", "aAcc"}


class Result(NamedTuple):
    """Mean over runs, in the metric's unit, and their standard deviation; None of a single run."""

    mean: float
    spread: float | None
    runs: int


def usual_pick(config: str) -> str:
    """Which of a run's evaluations is shown: as the papers' authors report a model of this kind."""
    return "best" if config.startswith("segformer") else "last"


def pick_evaluation(run: Run, pick: str, metrics: Iterable[Metric]) -> dict[str, float]:
    """The metrics of a finished run's last evaluation, or of its best by the first metric it has.

    All values are of one evaluation. Of equal ones the later is taken.
    """
    if pick == "last":
        return run.evaluations[run.length]
    logged = {key for values in run.evaluations.values() for key in values}
    key = next((metric.key for metric in metrics if metric.key in logged), None)
    if key is None:
        return run.evaluations[run.length]
    steps = [step for step, values in run.evaluations.items() if key in values]
    return run.evaluations[max(steps, key=lambda step: (run.evaluations[step][key], step))]


def summarize(
    runs: Iterable[Run], metrics: tuple[Metric, ...], pick: str | None = None
) -> dict[str, dict[str, Result]]:
    """Config -> heading of a metric -> result, for the metrics that runs of the config have.

    ``pick`` is one of PICKS for all, None for each config's usual one.
    """
    by_config: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        chosen = pick_evaluation(run, pick or usual_pick(run.config), metrics)
        by_config.setdefault(run.config, []).append(chosen)
    results: dict[str, dict[str, Result]] = {}
    for config, evaluations in by_config.items():
        for metric in metrics:
            values = [
                each[metric.key] * metric.factor for each in evaluations if metric.key in each
            ]
            if values:
                spread = statistics.stdev(values) if len(values) > 1 else None
                result = Result(statistics.fmean(values), spread, len(values))
                results.setdefault(config, {})[metric.heading] = result
    return results


def merge(kept: Iterable[Run], new: Iterable[Run]) -> list[Run]:
    """All runs, in order; a new one takes the place of the kept one of the same name."""
    runs = {(run.config, run.name): run for run in [*kept, *new]}
    return [runs[key] for key in sorted(runs)]


def read(path: Path = RUNS, configs: Collection[str] | None = None) -> list[Run]:
    """The runs that were recorded; ``configs`` are the names that there may be, None for any.

    Raises:
        ValueError: the file is not one that `write` made of finished runs of these configs.
    """
    runs: dict[tuple[str, str], Run] = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"columns of {path} must be {', '.join(COLUMNS)}")
        for row in reader:
            try:
                _add(row, runs, configs)
            except ValueError as error:
                raise ValueError(f"line {reader.line_num}: {error}") from error
    for run in runs.values():
        if not run.finished:
            raise ValueError(
                f"run {run.name} of {run.config} has no evaluation after {run.length}, its length; "
                f"its last is after {max(run.evaluations)}"
            )
    return list(runs.values())


def _add(
    row: dict[str | None, Any], runs: dict[tuple[str, str], Run], configs: Collection[str] | None
) -> None:
    """Add what a line says to the run that it is of."""
    if None in row or None in row.values():
        raise ValueError(f"there must be {len(COLUMNS)} values, {', '.join(COLUMNS)}")
    if configs is not None and row["config"] not in configs:
        raise ValueError(f"{row['config']!r} is no config of this project")
    if row["metric"] not in KEPT:
        raise ValueError(f"metric {row['metric']!r} is none of {', '.join(sorted(KEPT))}")
    new = Run(
        row["config"],
        row["run"],
        _whole(row, "seed") if row["seed"] else None,
        _whole(row, "length"),
    )
    run = runs.setdefault((new.config, new.name), new)
    if (run.seed, run.length) != (new.seed, new.length):
        raise ValueError(f"seed or length is not that of the lines of {run.name} above")
    try:
        value = float(row["value"])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"value must be a finite number, got {row['value']!r}")
    run.evaluations.setdefault(_whole(row, "step"), {})[row["metric"]] = value


def _whole(row: dict[str | None, Any], column: str) -> int:
    if not row[column].isdecimal():
        raise ValueError(f"{column} must be a whole number, got {row[column]!r}")
    return int(row[column])


def write(runs: Iterable[Run], path: Path = RUNS) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for run in runs:
        seed = "" if run.seed is None else run.seed
        for step, metrics in sorted(run.evaluations.items()):
            for key in sorted(KEPT & metrics.keys()):
                writer.writerow([run.config, run.name, seed, run.length, step, key, metrics[key]])
    write_text(path, text.getvalue())
