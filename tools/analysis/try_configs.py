"""Try configs: each trains two iterations and is tested, at a reduced size, on the Shapes data set.

    python tools/make_shapes.py data/shapes
    python tools/analysis/try_configs.py configs/*/*.py
    python tools/analysis/try_configs.py configs/mask_rcnn/*_dysample_*.py --csv tried.csv

Each config runs through tools/train.py and then tools/test.py, with --cfg-options that name the
Shapes data set in place of COCO or ADE20K, small pictures, two iterations and no downloads. A line
ends with 'ok' if both succeed, every loss is finite and there are metrics; otherwise it says what
is wrong, and the exit status is 1. --show prints the commands instead, to be run by hand.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import math
import os
import runpy
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from forked import run_forked
from mmengine.config import Config

from mmdysample.engine.atomic import check_writable, replacing
from mmdysample.engine.config import NEEDED_TO_TEST, NEEDED_TO_TRAIN, load_config
from mmdysample.engine.data import data_set_configs
from mmdysample.engine.errors import ArgumentParser, UserError, run_tool

ROOT = Path(__file__).resolve().parents[2]
BATCH = 2
IMAGES = {"train": 2 * BATCH, "val": 2, "test": 2}
SIDE = 96
"""Of pictures, in pixels; crops are two thirds of it."""
THINGS = ("disk", "ring", "star", "bar", "triangle", "cross", "crescent", "flower")
STUFF = ("sky", "hills", "water", "ground")
COUNTS = {80: len(THINGS), 53: len(STUFF), 54: len(STUFF) + 1, 133: len(THINGS + STUFF)}
"""COCO's numbers of classes, and those of Shapes in their place."""
CLASS_KEYS = ("num_classes", "num_things_classes", "num_stuff_classes")


class Job(NamedTuple):
    """A config to try."""

    config: Path
    data: Path
    work_dir: Path


class Row(NamedTuple):
    """A line of the report."""

    config: str
    train_s: str
    test_s: str
    loss: str
    metrics: str
    verdict: str


def parse_args() -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n\n")
    parser = ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="+", type=Path, metavar="CONFIG")
    parser.add_argument("--data", type=Path, default=Path("data/shapes"), help="Shapes data set")
    parser.add_argument("--workers", type=int, default=2, help="configs side by side (2)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the table here")
    parser.add_argument("--show", action="store_true", help="print the commands, run nothing")
    args = parser.parse_args()
    if args.workers < 1:
        parser.error(f"--workers must be at least 1, got {args.workers}")
    return args


def main() -> int:
    args = parse_args()
    if not (args.data / "shapes.json").is_file():
        raise UserError(
            f"--data {args.data} is not a Shapes data set: python tools/make_shapes.py {args.data} "
            "draws one"
        )
    if args.csv:
        check_writable(args.csv, "--csv")
    for path in args.configs:
        load_config(str(path), None, (*NEEDED_TO_TRAIN, *NEEDED_TO_TEST))
    if args.show:
        for path in args.configs:
            job = Job(path, args.data, Path("work_dirs") / path.stem)
            print(*(shlex.join(["python", *words]) for words in commands(job)), sep="\n")
        return 0

    for family in {load_config(str(path), None, ()).default_scope for path in args.configs}:
        for module in (f"{family}.datasets", f"{family}.models", f"mmdysample.{family}"):
            importlib.import_module(module)  # here, so that forked processes need not
    rows: list[Row] = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            Job(path.absolute(), args.data.absolute(), Path(folder, f"{number}-{path.stem}"))
            for number, path in enumerate(args.configs)
        ]
        logs = [job.work_dir.with_suffix(".log") for job in jobs]
        for job, outcome in run_forked(try_config, jobs, logs, args.workers):
            row = outcome.value or Row(job.config.stem, "", "", "", "", outcome.error)
            rows.append(row)
            print(
                f"[{len(rows)}/{len(jobs)}, {time.monotonic() - start:.0f} s] {line(row)}",
                flush=True,
            )
            if row.verdict != "ok":
                end = job.work_dir.with_suffix(".log").read_text().splitlines()[-20:]
                print(*end, sep="\n", file=sys.stderr)
    if args.csv:
        with replacing(args.csv) as draft, draft.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([Row._fields, *sorted(rows)])
    bad = [row.config for row in rows if row.verdict != "ok"]
    print(f"{len(rows) - len(bad)} of {len(rows)} configs are ok")
    if bad:
        print("not ok:", *bad, sep="\n  ")
    return 1 if bad else 0


def line(row: Row) -> str:
    if not row.train_s:
        return f"{row.config}: {row.verdict}"
    return (
        f"{row.config}: train {row.train_s} s, test {row.test_s} s, loss {row.loss}, "
        f"{row.metrics}: {row.verdict}"
    )


def try_config(job: Job) -> Row:
    """Train and test in this process, as if the tools had been called."""
    torch.set_num_threads(1)
    train, test = commands(job)
    times = []
    for words in (train, test):
        start = time.monotonic()
        call(words)
        times.append(f"{time.monotonic() - start:.0f}")
    losses, metrics = read_logs(job.work_dir)
    problem = ""
    if not losses:
        problem = "no loss was logged"
    elif not all(map(math.isfinite, losses)):
        problem = "a loss is not finite"
    elif not metrics:
        problem = "no metric was written"
    shown = ", ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:2])
    loss = f"{losses[-1]:.3f}" if losses else ""
    for path in job.work_dir.rglob("*.pth"):
        path.unlink()  # hundreds of megabytes each
    return Row(job.config.stem, *times, loss, shown, problem or "ok")


def read_logs(work_dir: Path) -> tuple[list[float], dict[str, float]]:
    """The losses that train.py has logged, and the metrics that test.py has written."""
    losses: list[float] = []
    for path in sorted(work_dir.glob("*/vis_data/scalars.json")):
        records = map(json.loads, path.read_text().splitlines())
        losses += [record["loss"] for record in records if "loss" in record]
    metrics: dict[str, float] = {}
    for path in sorted(work_dir.glob("*/*.json")):
        metrics |= json.loads(path.read_text())
    timing = ("time", "data_time")
    return losses, {name: value for name, value in metrics.items() if name not in timing}


def call(words: list[str]) -> None:
    """Run a tool as ``__main__``; SystemExit unless it succeeds."""
    os.chdir(ROOT)
    sys.argv = words
    sys.path[0] = str(ROOT / "tools")
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise


def commands(job: Job) -> tuple[list[str], list[str]]:
    """The words of tools/train.py and tools/test.py after ``python``."""
    cfg = Config.fromfile(str(job.config))
    given = [f"{key}={value}" for key, value in options(cfg, job.data)]
    work_dir = ["--work-dir", str(job.work_dir), "--cfg-options", *given]
    name = "iter_2.pth" if by_iteration(cfg) else "epoch_1.pth"
    checkpoint = str(job.work_dir / name)
    return (
        ["tools/train.py", str(job.config), *work_dir],
        ["tools/test.py", str(job.config), checkpoint, *work_dir],
    )


def by_iteration(cfg: Config) -> bool:
    return "max_iters" in cfg.train_cfg


def options(cfg: Config, data: Path) -> Iterator[tuple[str, Any]]:
    """--cfg-options for a run of two iterations on Shapes."""
    if by_iteration(cfg):
        yield "train_cfg.max_iters", 2
        yield "train_cfg.val_interval", 2
    else:
        yield "train_cfg.max_epochs", 1
    yield "default_hooks.logger.interval", 1
    yield "default_hooks.checkpoint.save_optimizer", False
    coco = cfg.default_scope == "mmdet"
    for part in ("train", "val", "test"):
        loader = f"{part}_dataloader"
        yield f"{loader}.num_workers", 0
        yield f"{loader}.persistent_workers", False
        yield f"{loader}.batch_size", BATCH if part == "train" else 1
        for place in data_sets(cfg[loader].dataset, f"{loader}.dataset"):
            yield f"{place}.data_root", in_quotes(f"{data}/" if coco else data)
            yield f"{place}.indices", IMAGES[part]
            if coco:
                yield f"{place}.metainfo.classes", quoted(classes(cfg))
        for place, value in sizes(cfg[loader].dataset, f"{loader}.dataset"):
            yield place, value
    if coco:
        for part in ("val", "test"):
            yield from evaluator_files(cfg[f"{part}_evaluator"], f"{part}_evaluator", data)
    yield from model_options(cfg.model, "model", coco)


def data_sets(dataset: dict, place: str) -> list[str]:
    """Where in a config the data sets that read files are."""
    assert len(data_set_configs(dataset)) == 1, "wrappers of several data sets are not handled"
    while "dataset" in dataset:
        dataset, place = dataset["dataset"], f"{place}.dataset"
    return [place]


def classes(cfg: Config) -> tuple[str, ...]:
    panoptic = "Panoptic" in str(cfg.train_dataloader.dataset.type)
    return THINGS + STUFF if panoptic else THINGS


def quoted(words: tuple[str, ...]) -> str:
    return "(" + ",".join(f"'{word}'" for word in words) + ")"


def sizes(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Options for every size of a picture in the pipelines."""
    if isinstance(value, dict):
        kind = str(value.get("type", ""))
        if kind in ("Resize", "RandomResize") and "scale" in value:
            yield f"{place}.scale", f"({SIDE},{SIDE})"
        if kind == "RandomChoiceResize":
            yield f"{place}.scales", f"[{SIDE}]" if "resize_type" in value else f"[({SIDE},{SIDE})]"
            if "max_size" in value:
                yield f"{place}.max_size", 2 * SIDE
        if "crop_size" in value:
            yield f"{place}.crop_size", f"({SIDE * 2 // 3},{SIDE * 2 // 3})"
        for key, inner in value.items():
            yield from sizes(inner, f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from sizes(inner, f"{place}.{index}")


def evaluator_files(evaluator: Any, place: str, data: Path) -> Iterator[tuple[str, Any]]:
    """The annotations of Shapes, which lie where COCO's do."""
    if isinstance(evaluator, (list, tuple)):
        for index, one in enumerate(evaluator):
            yield from evaluator_files(one, f"{place}.{index}", data)
        return
    for key in ("ann_file", "seg_prefix"):
        if evaluator.get(key):
            path = str(evaluator[key])
            below = path[path.index("annotations") :]
            yield f"{place}.{key}", in_quotes(data / below)


def in_quotes(path: Path | str) -> str:
    """A path as an option that stays text, whatever commas and brackets are in it."""
    quote = '"' if "'" in str(path) else "'"
    return f"{quote}{path}{quote}"


def model_options(value: Any, place: str, coco: bool) -> Iterator[tuple[str, Any]]:
    """No downloads, Shapes' numbers of classes, small crops."""
    if isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from model_options(inner, f"{place}.{index}", coco)
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        here = f"{place}.{key}"
        if (key == "init_cfg" and isinstance(inner, dict) and "checkpoint" in inner) or (
            key == "pretrained" and isinstance(inner, str)
        ):
            yield here, None
        elif key in CLASS_KEYS and coco and isinstance(inner, int):
            yield here, COUNTS.get(inner, inner)
        elif key == "score_thr" and ".test_cfg" in place:
            yield here, 0.0  # a model of two iterations is sure of nothing
        elif key == "size" and place.endswith("data_preprocessor"):
            yield here, f"({SIDE * 2 // 3},{SIDE * 2 // 3})"
        else:
            yield from model_options(inner, here, coco)


if __name__ == "__main__":
    sys.exit(run_tool(main))
