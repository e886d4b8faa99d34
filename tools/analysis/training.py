"""Whether models train with every upsampler: a loss that falls, and no NaN.

    python tools/make_shapes.py data/shapes
    python tools/analysis/training.py                    # every preset, both models and precisions
    python tools/analysis/training.py carafe sapa-b --models segformer --iterations 300

trains the small Faster R-CNN and SegFormer of configs/shapes with each upsampler of
configs/_base_/upsamplers, in full and in mixed precision, and prints the mean loss of the first
and of the last tenth of the iterations. A line ends with 'ok' if all losses are finite, the last
ones are at most 0.8 of the first ones and every parameter of the upsamplers has changed;
otherwise it says what is wrong, and the exit status is 1. Nothing is said about accuracies.

Mixed precision is float16 with a scaled loss on a GPU. On a CPU it is bfloat16; there, a detector's
heads stay in float32, since mmcv's RoIAlign and NMS take nothing else.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from forked import run_forked
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS
from mmengine.runner import Runner
from torch import nn

from mmdysample import Upsampler
from mmdysample.engine.atomic import check_writable, replacing
from mmdysample.engine.config import enable_amp, fit_to_machine, load_config
from mmdysample.engine.errors import ArgumentParser, UserError, run_tool
from mmdysample.engine.families import import_family
from mmdysample.engine.runner import build_runner

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PRESETS = tuple(sorted(path.stem for path in (CONFIGS / "_base_/upsamplers").glob("*.py")))
LARGEST_SHARE = 0.8
"""Of the first losses, that the last ones may be."""


class Model(NamedTuple):
    """A small model of configs/shapes."""

    config: str
    host: str
    """The part of it that takes ``upsample_cfg``."""
    batch_size: int


MODELS = {
    "faster-rcnn": Model("faster-rcnn_r18_fpn_nearest_shapes.py", "neck", 4),
    "segformer": Model("segformer_mit-b0_bilinear_shapes.py", "decode_head", 8),
}
PRECISIONS = ("float32", "mixed")


class Job(NamedTuple):
    """A run of training."""

    model: str
    upsampler: str
    precision: str
    iterations: int
    data: Path


class Result(NamedTuple):
    """What a run showed."""

    first_loss: float
    last_loss: float
    seconds: float
    problem: str
    """'' if there is none."""


class Row(NamedTuple):
    """A line of the report."""

    model: str
    upsampler: str
    precision: str
    iterations: int
    first_loss: str
    last_loss: str
    seconds: str
    verdict: str


def parse_args() -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n\n")
    parser = ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "upsamplers", nargs="*", metavar="UPSAMPLER", help=f"{', '.join(PRESETS)} (default: all)"
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--iterations", type=int, default=150, help="of each run (150)")
    parser.add_argument("--data", type=Path, default=Path("data/shapes"), help="Shapes data set")
    parser.add_argument("--workers", type=int, default=2, help="runs side by side (2)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the table here")
    args = parser.parse_args()
    unknown = [name for name in args.upsamplers if name not in PRESETS]
    if unknown:
        parser.error(f"unknown upsampler {unknown[0]!r}; accepted are {', '.join(PRESETS)}")
    if args.iterations < 10:
        parser.error(f"--iterations must be at least 10, got {args.iterations}")
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
    jobs = [
        Job(model, upsampler, precision, args.iterations, args.data.absolute())
        for upsampler in args.upsamplers or PRESETS
        for model in args.models
        for precision in args.precisions
    ]
    import_families()
    rows: list[Row] = []
    print_row(Row._fields)
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder, f"{number}.log") for number in range(len(jobs))]
        for job, outcome in run_forked(train, jobs, logs, args.workers):
            rows.append(describe(job, outcome.value, outcome.error))
            print_row(rows[-1])
            if outcome.error:
                end = logs[jobs.index(job)].read_text().splitlines()[-20:]
                print(*end, sep="\n", file=sys.stderr)
    if args.csv:
        with replacing(args.csv) as draft, draft.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([Row._fields, *sorted(rows)])
    bad = sum(row.verdict != "ok" for row in rows)
    print(f"{len(rows) - bad} of {len(rows)} runs are ok")
    return 1 if bad else 0


def import_families() -> None:
    """Before processes are forked, so that they need not."""
    for family in ("mmdet", "mmseg"):
        for module in (f"{family}.datasets", f"{family}.models", f"mmdysample.{family}"):
            importlib.import_module(module)


def train(job: Job) -> Result:
    """Train in this process."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work_dir:
        cfg = make_config(job, work_dir)
        runner = build_runner(cfg)
        if job.precision == "mixed" and get_device() == "cpu" and job.model == "faster-rcnn":
            keep_heads_in_float32(runner.model)
        before = upsampler_parameters(runner.model)
        start = time.monotonic()
        runner.train()
        seconds = time.monotonic() - start
    losses = next(hook.losses for hook in runner.hooks if isinstance(hook, LossRecorder))
    return judge(losses, before, upsampler_parameters(runner.model), seconds)


def make_config(job: Job, work_dir: str) -> Config:
    """The model's config with the upsampler, for a few iterations."""
    model = MODELS[job.model]
    path = CONFIGS / "shapes" / model.config
    upsample_cfg = Config.fromfile(CONFIGS / f"_base_/upsamplers/{job.upsampler}.py").upsample_cfg
    cfg = load_config(str(path), None, ("model",))
    import_family(cfg)
    cfg.model[model.host].upsample_cfg = upsample_cfg
    cfg.train_dataloader.update(
        batch_size=model.batch_size, num_workers=0, persistent_workers=False
    )
    cfg.train_dataloader.dataset.data_root = str(job.data)
    cfg.train_cfg = dict(
        type="IterBasedTrainLoop", max_iters=job.iterations, val_interval=job.iterations + 1
    )
    for part in ("val", "test"):
        for name in ("cfg", "dataloader", "evaluator"):
            cfg[f"{part}_{name}"] = None
    warmup = max(1, job.iterations // 10)
    cfg.param_scheduler = [dict(type="LinearLR", start_factor=0.01, by_epoch=False, end=warmup)]
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", interval=-1, save_last=False)
    cfg.custom_hooks = [dict(type="LossRecorder")]
    cfg.work_dir = work_dir
    if job.precision == "mixed" and get_device() != "cpu":
        enable_amp(cfg)
    fit_to_machine(cfg, "none")
    if job.precision == "mixed" and get_device() == "cpu":
        cfg.optim_wrapper.type = "BFloat16OptimWrapper"
    return cfg


@HOOKS.register_module()
class LossRecorder(Hook):
    """Keeps the loss of every iteration."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def after_train_iter(self, runner: Runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.losses.append(outputs["loss"].item())


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Mixed precision on a CPU, where mmengine's AmpOptimWrapper is not available."""

    def optim_context(self, model: nn.Module):
        return torch.autocast("cpu", torch.bfloat16)


def keep_heads_in_float32(detector: nn.Module) -> None:
    """Let the backbone and the neck alone be in mixed precision."""
    detector.rpn_head.loss_and_predict = in_float32(detector.rpn_head.loss_and_predict)
    detector.roi_head.loss = in_float32(detector.roi_head.loss)


def in_float32(method):
    """A method of a head, whose first argument are features, without autocast."""

    def call(features, *args, **kwargs):
        with torch.autocast("cpu", enabled=False):
            return method(tuple(feature.float() for feature in features), *args, **kwargs)

    return call


def upsampler_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{parameter_name}": parameter.detach().cpu().clone()
        for name, module in model.named_modules()
        if isinstance(module, Upsampler)
        for parameter_name, parameter in module.named_parameters()
    }


def judge(
    losses: list[float],
    before: dict[str, torch.Tensor],
    after: dict[str, torch.Tensor],
    seconds: float,
) -> Result:
    tenth = max(1, len(losses) // 10)
    first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    idle = [name for name, value in after.items() if torch.equal(value, before[name])]
    broken = [name for name, value in after.items() if not value.isfinite().all()]
    problem = ""
    if not all(map(math.isfinite, losses)):
        problem = "a loss is not finite"
    elif broken:
        problem = f"{broken[0]} is not finite"
    elif idle:
        problem = f"{idle[0]} did not change"
    elif last > LARGEST_SHARE * first:
        problem = f"the last losses are {last / first:.2f} of the first"
    return Result(first, last, seconds, problem)


def describe(job: Job, result: Result | None, error: str) -> Row:
    run = (job.model, job.upsampler, job.precision, job.iterations)
    if result is None:
        return Row(*run, "", "", "", error)
    losses = (f"{result.first_loss:.3f}", f"{result.last_loss:.3f}")
    return Row(*run, *losses, f"{result.seconds:.0f}", result.problem or "ok")


def print_row(row: tuple) -> None:
    widths = (11, 15, 9, 10, 10, 9, 7, 0)
    print("  ".join(f"{cell!s:<{w}}" for cell, w in zip(row, widths, strict=True)), flush=True)


if __name__ == "__main__":
    sys.exit(run_tool(main))
