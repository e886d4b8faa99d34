"""Try configs: each trains for two iterations and is tested, at a reduced size, on Shapes.

    python tools/make_shapes.py data/shapes
    python tools/analysis/try_configs.py configs/*/*.py

A copy of each config, with the Shapes data set in the place of its own, small images and no
downloads, goes through tools/train.py and tools/test.py; files below `_base_`, which are parts of
configs, are left out. A line ends with 'ok' if both succeed, every loss is finite and there are
metrics; otherwise it says what is wrong, the end of the log follows on stderr, and the exit status
is 1.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdysample.engine.config import NEEDED_TO_TEST, NEEDED_TO_TRAIN, load_config
from mmdysample.engine.data import data_set_configs
from mmdysample.engine.errors import ArgumentParser, UserError, run_tool

TOOLS = Path(__file__).resolve().parents[1]
BATCH_SIZE = 2
IMAGES = {"train": 2 * BATCH_SIZE, "val": 2, "test": 2}
SIDE = 96
"""Of images, in pixels."""
CROP = (64, 64)
THINGS = ("disk", "ring", "star", "bar", "triangle", "cross", "crescent", "flower")
STUFF = ("sky", "hills", "water", "ground")
COUNTS = {80: len(THINGS), 53: len(STUFF), 133: len(THINGS + STUFF)}
"""COCO's numbers of classes, and those of Shapes in their place."""
CLASS_KEYS = ("num_classes", "num_things_classes", "num_stuff_classes")
DIRECTORIES = {"train": "training", "val": "validation", "test": "validation"}
DATA_PREFIXES = {
    "NYUDataset": dict(img_path="images/{}", depth_map_path="depth/{}"),
    "MattingDataset": dict(
        img_path="images/{}", trimap_path="matting/{}/trimap", alpha_path="matting/{}/alpha"
    ),
    "ComposedMattingDataset": dict(
        fg_path="matting/{}/fg", alpha_path="matting/{}/alpha", bg_path="matting/{}/bg"
    ),
    "CityscapesDataset": dict(img_path="images/{}", seg_map_path="annotations/{}"),
}
"""Where Shapes has what these data sets read; the others look where the files of Shapes lie."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class TrialError(Exception):
    """A config that does not train, or cannot be tested; the message says what is wrong."""


def parse_args() -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n\n")
    parser = ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="+", type=Path, metavar="CONFIG")
    parser.add_argument("--data", type=Path, default=Path("data/shapes"), help="Shapes data set")
    parser.add_argument("--workers", type=int, default=2, help="configs side by side (2)")
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
    paths = [path for path in args.configs if "_base_" not in path.parts]
    if not paths:
        raise UserError("no config to try: files below _base_ are parts of configs")
    bad = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as parent:
        directories = {}
        for number, path in enumerate(paths):
            cfg = load_config(str(path), None, (*NEEDED_TO_TRAIN, *NEEDED_TO_TEST))
            directories[path] = directory = Path(parent, str(number))
            directory.mkdir()
            reduce_config(cfg, args.data.absolute())
            cfg.dump(directory / "config.py")
        with ThreadPoolExecutor(args.workers) as pool:
            trials = {pool.submit(try_config, directories[path]): path for path in directories}
            try:
                for done, trial in enumerate(as_completed(trials), start=1):
                    path = trials[trial]
                    try:
                        verdict = f"{trial.result()}: ok"
                    except TrialError as error:
                        verdict = str(error)
                        bad.append(path.stem)
                        log = (directories[path] / "log.txt").read_text(errors="replace")
                        print(*log.splitlines()[-20:], sep="\n", file=sys.stderr)
                    passed = f"{time.monotonic() - start:.0f} s"
                    print(f"[{done}/{len(trials)}, {passed}] {path.stem}: {verdict}", flush=True)
            except BaseException:  # Ctrl-C, above all
                pool.shutdown(cancel_futures=True)
                raise
    print(f"{len(trials) - len(bad)} of {len(trials)} configs are ok")
    if bad:
        print("not ok:", *bad, sep="\n  ")
    return 1 if bad else 0


def try_config(directory: Path) -> str:
    """Train and test ``config.py`` in the directory; says how that went.

    Raises:
        TrialError: one of the tools failed, or its results are not what they must be.
    """
    config, work_dir = directory / "config.py", directory / "run"
    seconds = [call("train.py", directory, config)]
    # A config may keep the best one as well.
    (checkpoint,) = (path for path in work_dir.glob("*.pth") if not path.name.startswith("best_"))
    seconds.append(call("test.py", directory, config, checkpoint))
    for path in work_dir.glob("*.pth"):
        path.unlink()  # hundreds of megabytes
    losses, metrics = read_logs(work_dir)
    if not losses or not all(map(math.isfinite, losses)):
        raise TrialError(f"the losses are {losses}, which are not finite numbers")
    if not metrics:
        raise TrialError("no metric was written")
    shown = ", ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:2])
    return f"train {seconds[0]:.0f} s, test {seconds[1]:.0f} s, loss {losses[-1]:.3f}, {shown}"


def call(tool: str, directory: Path, *arguments: Path) -> float:
    """Run a tool in a process of its own, with its output in log.txt; returns its seconds."""
    start = time.monotonic()
    command = [sys.executable, TOOLS / tool, *arguments, "--work-dir", directory / "run"]
    with (directory / "log.txt").open("a") as log:
        result = subprocess.run(
            command, env=os.environ | ONE_THREAD, stdout=log, stderr=subprocess.STDOUT
        )
    if result.returncode:
        raise TrialError(f"{tool} ended with exit status {result.returncode}")
    return time.monotonic() - start


def read_logs(work_dir: Path) -> tuple[list[float], dict[str, float]]:
    """The losses that train.py has logged, and the metrics that test.py has written."""
    losses: list[float] = []
    for path in work_dir.glob("*/vis_data/scalars.json"):
        records = map(json.loads, path.read_text().splitlines())
        losses += [record["loss"] for record in records if "loss" in record]
    metrics: dict[str, float] = {}
    for path in work_dir.glob("*/*.json"):
        if path.stem == path.parent.name:  # not run.json, the record of a training
            metrics |= json.loads(path.read_text())
    timing = ("time", "data_time")
    return losses, {name: value for name, value in metrics.items() if name not in timing}


def reduce_config(cfg: Config, data: Path) -> None:
    """Two iterations, on a few small images of Shapes, of a model with random weights."""
    if "max_iters" in cfg.train_cfg:
        cfg.train_cfg.update(max_iters=2, val_interval=2)
    else:
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.checkpoint.save_optimizer = False
    is_coco = cfg.default_scope == "mmdet"
    is_panoptic = "Panoptic" in str(cfg.train_dataloader.dataset.type)
    for part, images in IMAGES.items():
        loader = cfg[f"{part}_dataloader"]
        loader.update(num_workers=0, persistent_workers=False)
        loader.batch_size = BATCH_SIZE if part == "train" else 1
        for dataset in data_set_configs(loader.dataset):
            dataset.update(data_root=f"{data}/", indices=images)
            use_directories(dataset, DIRECTORIES[part])
            if is_coco:
                dataset.metainfo = dict(classes=THINGS + STUFF if is_panoptic else THINGS)
        for transform in nested_dicts(loader.dataset):
            reduce_images(transform)
    for part in ("val", "test"):
        for evaluator in nested_dicts(cfg[f"{part}_evaluator"]):
            for key in ("ann_file", "seg_prefix"):
                if evaluator.get(key):  # the annotations of Shapes lie where COCO's do
                    below = evaluator[key].partition("annotations/")[2]
                    evaluator[key] = f"{data}/annotations/{below}"
    for module in nested_dicts(cfg.model):
        reduce_module(module, is_coco)
        if "stride" in module and "crop_size" in module:  # windows that are tested one by one
            module.update(crop_size=(SIDE, SIDE), stride=(SIDE, SIDE))


def use_directories(dataset: dict, directory: str) -> None:
    """Read what Shapes has where a data set looks for other directories than Shapes' own."""
    prefixes = DATA_PREFIXES.get(dataset["type"])
    if prefixes is not None:
        dataset["data_prefix"] = {key: path.format(directory) for key, path in prefixes.items()}
        dataset["ann_file"] = ""
    if dataset["type"] == "MattingDataset":
        dataset["leave_out_images"] = True  # not every image of Shapes has a matte
    if dataset["type"] == "CityscapesDataset":
        dataset.update(img_suffix=".jpg", seg_map_suffix=".png")


def nested_dicts(value: Any) -> Iterator[dict]:
    """``value`` and all that is in it, as far as they are dicts."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for inner in value:
            yield from nested_dicts(inner)


def reduce_images(transform: dict) -> None:
    """Small sizes in a transform of a pipeline."""
    if transform.get("type") in ("Resize", "RandomResize") and "scale" in transform:
        transform["scale"] = (SIDE, SIDE)
    if transform.get("type") == "RandomChoiceResize":
        transform["scales"] = [SIDE] if "resize_type" in transform else [(SIDE, SIDE)]
        if "max_size" in transform:
            transform["max_size"] = 2 * SIDE
    if transform.get("type") == "ResizeForeground":
        transform["size"] = SIDE
    if transform.get("type") == "Pad" and "size" in transform:
        transform["size"] = (SIDE, SIDE)
    if "img_scale" in transform:  # of Mosaic and MixUp
        transform["img_scale"] = (SIDE, SIDE)
    if transform.get("type") == "RandomAffine":
        transform["border"] = (-SIDE // 2, -SIDE // 2)  # what Mosaic has added
    if "crop_size" in transform:  # matting's is the side of a square
        transform["crop_size"] = CROP[0] if isinstance(transform["crop_size"], int) else CROP


def reduce_module(module: dict, is_coco: bool) -> None:
    """No downloads, Shapes' numbers of classes, small crops, and boxes of any score."""
    if isinstance(module.get("pretrained"), str):
        module["pretrained"] = None
    if "checkpoint" in (module.get("init_cfg") or {}):
        module["init_cfg"] = None
    if is_coco:
        for key in CLASS_KEYS:
            if isinstance(module.get(key), int):
                module[key] = COUNTS.get(module[key], module[key])
    if "score_thr" in module:
        module["score_thr"] = 0.0  # a model of two iterations is sure of nothing
    if str(module.get("type")).endswith("DataPreProcessor") and "size" in module:
        module["size"] = CROP
    if module.get("type") == "BatchSyncRandomResize":
        module["random_size_range"] = (CROP[0], SIDE)


if __name__ == "__main__":
    sys.exit(run_tool(main))
