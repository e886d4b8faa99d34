"""Runs, read from what tools/train.py and tools/test.py leave in a work dir.

A work dir holds the config under its name, and of each start of a tool a folder named by its time:
the config with all options in ``vis_data/config.py``, a training's scalars, one JSON object a line,
in ``vis_data/scalars.json``, and a test's metrics in ``<time>.json``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from mmengine.config import Config

from .configs import load
from .dumps import read_dump

# What a training logs beside metrics, or an evaluation of them.
NO_METRICS = ("lr", "base_lr", "loss", "iter", "epoch", "step", "time", "data_time", "memory")
CHECKPOINT = re.compile(r"(?:best_.*_)?(?:epoch|iter)_(\d+)\.pth$")
# In a config's name: GPUs, and images on each.
BATCH = re.compile(r"_(\d+)xb(\d+)[-_]")
# Where the data lies and how it is loaded is not what is trained; nor is how the batch is divided
# among GPUs, see `batch_difference`.
FREE = {
    *("data_root", "num_workers", "persistent_workers", "pin_memory", "prefetch_factor"),
    *("batch_size", "backend_args", "file_client_args", "classwise", "outfile_prefix"),
    *("output_dir", "keep_results"),
}
# What a model starts from, which the checkpoint of a test replaces.
INITIAL_WEIGHTS = {"init_cfg", "pretrained"}
# Of these the folder is free; a file of another name holds other annotations.
ANNOTATIONS = (".ann_file", ".seg_prefix")
# Of these the whole path or address is: weights that were downloaded may have another name.
CHECKPOINTS = (".init_cfg.checkpoint", ".pretrained")
WRITERS = ("DumpDetResults", "DumpResults", "DumpWholeDetResults")
TRAINED = (
    *("model", "train_cfg", "optim_wrapper", "param_scheduler", "custom_hooks"),
    *("train_dataloader", "val_dataloader", "val_evaluator"),
)
TESTED = ("model", "test_dataloader", "test_evaluator")


@dataclass
class Run:
    """One training of a config.

    Args:
        config: name of the config.
        name: work dir and start.
        seed: None if the config sets none.
        length: epochs, or iterations if the training counts these.
        evaluations: metrics by the epoch or iteration after which they were measured.
    """

    config: str
    name: str
    seed: int | None
    length: int
    evaluations: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.length in self.evaluations


def read_runs(
    folder: Path, configs: dict[str, Path], notice: Callable[[str], None]
) -> tuple[list[Run], int]:
    """The runs of known configs in work dirs at or below ``folder``, and how many starts there are.

    What is left out, and why, is given to ``notice``, a sentence each.
    """
    runs: dict[Path, Run] = {}  # the newest of each work dir
    found: list[Run] = []
    configs_of_starts = [path for path in folder.rglob("vis_data/config.py") if path.is_file()]
    starts = [path.parent.parent for path in configs_of_starts]
    work_dirs = sorted({start.parent for start in starts})
    names = {work_dir: config_name(work_dir, configs, notice) for work_dir in work_dirs}
    # In the order of time; within a second a training comes before a test of it.
    for start in sorted(starts, key=lambda start: (start.name, _test_of(start).is_file(), start)):
        work_dir = start.parent
        config = names[work_dir]
        if config is None:
            continue
        settings = read_config(start / "vis_data" / "config.py", notice)
        if settings is None:
            continue
        test, log = _test_of(start), start / "vis_data" / "scalars.json"
        if not test.is_file() and not log.is_file():
            notice(f"{start} has neither scalars nor metrics: it ended before it logged any")
            continue
        places = TESTED if test.is_file() else TRAINED
        if not test.is_file() and not settings.get("resume"):
            places = (*places, "load_from")
        free = FREE | INITIAL_WEIGHTS if test.is_file() else FREE
        own = load(configs[config])
        change = difference(settings, own, places, free)
        if not change and not test.is_file():
            change = batch_difference(settings, own, config)
        if change:
            notice(f"{start} is left out, because its settings are not those of {config}: {change}")
            if not test.is_file():
                runs.pop(work_dir.resolve(), None)  # what is tested or continued later is this
            continue
        try:
            run = _run_of(start, config, settings, runs, is_test=test.is_file())
        except ValueError as error:
            notice(f"{start} is left out: {error}")
            continue
        if not any(run is other for other in found):
            found.append(run)
        step = _tested_step(settings) if test.is_file() else None
        for at, metrics in read_metrics(log if step is None else test, step, notice):
            run.evaluations.setdefault(at, {}).update(metrics)
    for run in found:
        if not run.finished:
            at = f"its last evaluation was after {max(run.evaluations)}" if run.evaluations else ""
            notice(
                f"{run.name} is left out: it was stopped before it was evaluated after the last of "
                f"its {run.length} epochs or iterations; {at or 'there was no evaluation'}"
            )
    return [run for run in found if run.finished], len(starts)


def _test_of(start: Path) -> Path:
    """Where tools/test.py writes metrics, and tools/train.py nothing."""
    return start / f"{start.name}.json"


def config_name(
    work_dir: Path, configs: dict[str, Path], notice: Callable[[str], None]
) -> str | None:
    """Name of the config of which the tools left a copy in a work dir."""
    names = sorted(path.stem for path in work_dir.glob("*.py"))
    known = [name for name in names if name in configs]
    if len(known) == 1:
        return known[0]
    if known:
        notice(f"{work_dir} is left out: it holds runs of several configs, {' and '.join(known)}")
    else:
        what = f"{', '.join(names)} is no config" if names else "there is no copy of a config"
        notice(f"{work_dir} is left out: {what} of this project")
    return None


def read_config(path: Path, notice: Callable[[str], None]) -> dict[str, Any] | None:
    try:
        return read_dump(path)
    except (OSError, ValueError) as error:
        notice(f"{path.parent.parent} is left out: its config.py cannot be read ({error})")
        return None


def read_metrics(
    path: Path, step: int | None, notice: Callable[[str], None]
) -> Iterator[tuple[int, dict[str, float]]]:
    """The evaluations in a file of JSON lines: after which step, and the metrics.

    The lines of a test do not say the ``step``; those of a training do.
    """
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            notice(f"line {number} of {path} is left out: it is cut off or no JSON")
            continue
        if not isinstance(entry, dict):
            notice(f"line {number} of {path} is left out: it is no JSON object")
            continue
        if "lr" in entry or "loss" in entry:
            continue  # of the training itself
        metrics = {
            key: _float(value)
            for key, value in entry.items()
            if key not in NO_METRICS and isinstance(value, int | float)
        }
        undefined = sorted(key for key, value in metrics.items() if not math.isfinite(value))
        if undefined:
            notice(f"{', '.join(undefined)} in line {number} of {path} is no number: left out")
        metrics = {key: value for key, value in metrics.items() if math.isfinite(value)}
        at = entry.get("step") if step is None else step
        if metrics and not isinstance(at, int):
            notice(f"line {number} of {path} is left out: it says of no step")
        elif metrics:
            yield at, metrics


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # JSON's integers have no end
        return math.inf


def _dict(value: Any) -> dict:
    """A setting that is to be a dict; what a stranger's config has may be anything."""
    return value if isinstance(value, dict) else {}


def batch_difference(settings: dict, own: Config, name: str) -> str:
    """The images of a training step that are not as many as the config's learning rate is for.

    Empty if they are, or if the learning rate was scaled along with them.
    """
    base = own.get("auto_scale_lr", {}).get("base_batch_size")
    found = BATCH.search(name)
    meant = int(found[1]) * int(found[2]) if found else base or own.train_dataloader.batch_size
    scaling = _dict(settings.get("auto_scale_lr"))
    if scaling.get("enable"):
        given = scaling.get("base_batch_size")
        return "" if given == meant else f"auto_scale_lr.base_batch_size is {given}, not {meant}"
    images = _dict(settings.get("train_dataloader")).get("batch_size")
    processes = _dict(settings.get("env_cfg")).get("world_size")
    if processes is None and settings.get("launcher") == "none":
        processes = 1
    if not isinstance(images, int) or not isinstance(processes, int):
        return f"it does not say on how many GPUs it trained, for a batch of {meant} images"
    if images * processes == meant:
        return ""
    return (
        f"the batch is {images} images on each of {processes} GPUs, not {meant} in all, and "
        "--auto-scale-lr was not given"
    )


def difference(ours: Any, theirs: Any, places: tuple[str, ...], free: Collection[str]) -> str:
    """The first setting that is not the config's own, empty if there is none.

    Keys in ``free`` may have any value at any depth.
    """
    for place in places:
        found = _difference(_plain(ours.get(place)), _plain(theirs.get(place)), place, free)
        if found:
            return found
    return ""


def _plain(value: Any) -> Any:
    """Evaluators without those that only write predictions: a list of one is that one."""
    if isinstance(value, list | tuple):
        value = [each for each in value if _dict(each).get("type") not in WRITERS]
        return value[0] if len(value) == 1 else value
    return value


def _difference(ours: Any, theirs: Any, place: str, free: Collection[str]) -> str:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in {**theirs, **ours}:
            if key not in free:
                found = _difference(ours.get(key), theirs.get(key), f"{place}.{key}", free)
                if found:
                    return found
        return ""
    both = (ours, theirs)
    if all(isinstance(value, list | tuple) for value in both) and len(ours) == len(theirs):
        found = (
            _difference(a, b, f"{place}[{i}]", free)
            for i, (a, b) in enumerate(zip(ours, theirs, strict=True))
        )
        return next(filter(None, found), "")
    if ours and theirs and all(isinstance(value, str) for value in both):
        if place.endswith(CHECKPOINTS):
            return ""
        if place.endswith(ANNOTATIONS) and PurePath(ours).name == PurePath(theirs).name:
            return ""
    return "" if ours == theirs else f"{place} is {_short(ours)}, not {_short(theirs)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _run_of(
    start: Path, config: str, settings: dict, newest: dict[Path, Run], *, is_test: bool
) -> Run:
    """The run that a start of a tool belongs to: the one it continues or tests, or a new one.

    Raises:
        ValueError: it continues or tests a training that is not here. What that was, nobody knows:
            a checkpoint may have been downloaded.
    """
    work_dir = start.parent.resolve()
    if is_test:
        _tested_step(settings)
        return newest[_trained_in(settings, config, newest, "tests")]
    if settings.get("resume"):
        # Of a work dir that was moved, the earlier start is in the same folder.
        here = work_dir in newest and newest[work_dir].config == config
        place = work_dir if here else _trained_in(settings, config, newest, "continues")
        newest[work_dir] = newest[place]
    else:
        seed = _dict(settings.get("randomness")).get("seed")
        if seed is not None and not isinstance(seed, int):
            raise ValueError(f"its randomness.seed is {_short(seed)}")
        newest[work_dir] = Run(config, f"{start.parent.name}/{start.name}", seed, length(settings))
    return newest[work_dir]


def _trained_in(settings: dict, config: str, newest: dict[Path, Run], does: str) -> Path:
    """The work dir of the training that wrote the checkpoint that was loaded."""
    loaded = _loaded_from(settings)
    if loaded in newest and newest[loaded].config == config:
        return loaded
    namesakes = [p for p in newest if p.name == loaded.name and newest[p].config == config]
    if not loaded.exists() and len(namesakes) == 1:
        return namesakes[0]  # it was moved
    raise ValueError(f"it {does} a training in {loaded}, which is not among these runs")


def length(settings: dict) -> int:
    """Epochs or iterations of a training."""
    train_cfg = settings.get("train_cfg") or {}
    found = train_cfg.get("max_epochs") or train_cfg.get("max_iters")
    if not found:
        raise ValueError("its config has neither train_cfg.max_epochs nor train_cfg.max_iters")
    return int(found)


def _loaded_from(settings: dict) -> Path:
    return Path(str(settings.get("load_from"))).parent.resolve()


def _tested_step(settings: dict) -> int:
    checkpoint = str(settings.get("load_from"))
    found = CHECKPOINT.search(checkpoint)
    if found is None:
        raise ValueError(
            f"the checkpoint that was tested, {checkpoint}, is not named by an epoch or iteration"
        )
    return int(found[1])
