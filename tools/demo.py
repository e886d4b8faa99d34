"""Train a small detector and a small segmentor with and without DySample, compare, draw.

Everything runs on the Shapes data set through the tools that a user would call: make_shapes.py,
train.py, test.py and those in analysis/. What is finished is kept: a demo that was interrupted
goes on where it stopped when it is started again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MARKER = "demo.json"
"""Lies in the demo's directory, and says with which settings it was made."""
IMAGES = {True: ("24", "8"), False: ("400", "100")}
"""To train and to test on: of a quick demo, and of the usual one."""
OPTIONS = [
    # Loading takes milliseconds: processes for it would only compete for the cores.
    f"{split}_dataloader.{setting}"
    for split in ("train", "val", "test")
    for setting in ("num_workers=0", "persistent_workers=False")
]
Command = list[str | Path]
"""Path of a tool in this repository, and its arguments."""


class Task(NamedTuple):
    """A model, and what it is trained with and judged by."""

    name: str
    config: str
    """Of configs/shapes, with a place for the upsampler."""
    upsamplers: tuple[str, str]
    """The model's own, and the one that is compared with it."""
    metrics: dict[str, str]
    """Heading -> name in the results of test.py."""
    percent: float
    """What makes these results percent."""
    image: str
    quick: list[str]
    """Settings of a run of seconds."""
    minutes: float
    """Of training both models side by side, on two CPU cores."""

    def config_file(self, upsampler: str) -> Path:
        return ROOT / "configs" / "shapes" / self.config.format(upsampler.lower())

    def run(self, upsampler: str) -> Path:
        """Work directory of the training."""
        return Path(self.config_file(upsampler).stem)

    def checkpoint(self, upsampler: str) -> Path:
        """The last one that training wrote."""
        noted = (self.run(upsampler) / "last_checkpoint").read_text().strip()
        # The path in it is absolute, and the demo may have been copied or moved since.
        return self.run(upsampler) / Path(noted).name

    def results(self, upsampler: str) -> Path | None:
        """What test.py wrote, once it has ended."""
        return max((self.run(upsampler) / "test").glob("*/*.json"), default=None)


DETECTOR = Task(
    name="Faster R-CNN",
    config="faster-rcnn_r18_fpn_{}_shapes.py",
    upsamplers=("Nearest", "DySample"),
    metrics={"AP": "coco/bbox_mAP", "AP50": "coco/bbox_mAP_50"},
    percent=100,
    image="detections.png",
    quick=["train_cfg.max_epochs=1"],
    minutes=4,
)
SEGMENTOR = Task(
    name="SegFormer",
    config="segformer_mit-b0_{}_shapes.py",
    upsamplers=("Bilinear", "DySample"),
    metrics={"mIoU": "mIoU", "mAcc": "mAcc"},
    percent=1,
    image="segmentation.png",
    quick=["train_cfg.max_iters=2", "train_dataloader.batch_size=2"],
    minutes=2.5,
)
TASKS = (DETECTOR, SEGMENTOR)


class StepError(Exception):
    """One sentence for the user: a tool failed."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work-dir", type=Path, help="directory for everything (work_dirs/demo)")
    parser.add_argument(
        "--quick", action="store_true", help="a few images and iterations: shows that it runs"
    )
    args = parser.parse_args()
    if args.work_dir is None:
        args.work_dir = ROOT / "work_dirs" / ("demo-quick" if args.quick else "demo")
    args.work_dir = args.work_dir.absolute()
    if mistake := mistake_in(args.work_dir, args.quick):
        parser.exit(2, f"error: {args.work_dir} {mistake}: choose another one with --work-dir\n")
    return args


def mistake_in(work_dir: Path, quick: bool) -> str | None:
    """Why the demo cannot run in this directory."""
    if work_dir.exists() and not work_dir.is_dir():
        return "is a file"
    if not work_dir.exists() or not any(work_dir.iterdir()):
        return None
    try:
        before = json.loads((work_dir / MARKER).read_text())["quick"]
    except (OSError, ValueError, TypeError, KeyError):
        return "was not made by the demo"
    return None if before == quick else f"holds a demo {'with' if before else 'without'} --quick"


def main() -> int:
    args = parse_args()
    again = shlex.join(["bash", "tools/demo.sh", *sys.argv[1:]])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        args.work_dir.mkdir(parents=True, exist_ok=True)
        os.chdir(args.work_dir)  # where the configs of Shapes look for data/shapes
        write_marker(args.quick)
        Demo(args.quick).run()
    except (StepError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted; to go on from here: {again}", file=sys.stderr)
        return 130
    return 0


def write_marker(quick: bool) -> None:
    """Say, in the current directory, that it is a demo's, and of which settings."""
    from mmdysample.atomic import write_text

    if not Path(MARKER).exists():
        write_text(MARKER, json.dumps({"quick": quick}))


class Demo:
    """The steps in their order, in the current directory."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.step = 0
        self.steps = 1 + 3 * len(TASKS) + 1

    def run(self) -> None:
        print(f"Everything goes to {Path.cwd()}; what is done is kept. Ctrl-C stops.")
        for name in ("data", "logs"):
            Path(name).mkdir(exist_ok=True)
        self.draw_data()
        for task in TASKS:
            self.compare(task)
        upsampler = DETECTOR.upsamplers[1]
        model = [DETECTOR.config_file(upsampler), DETECTOR.checkpoint(upsampler)]
        image = sorted(Path("data/shapes/val2017").iterdir())[2]
        self.draw("sampling_points.png", ["tools/analysis/sampling_points.py", *model, image])
        report = table()
        Path("results.txt").write_text(report)
        print(f"\n{report}\nImages:")
        for name in (*(task.image for task in TASKS), "sampling_points.png"):
            print(f"  {Path.cwd() / name}")

    def draw_data(self) -> None:
        train, val = IMAGES[self.quick]
        command: Command = ["tools/make_shapes.py", "data/shapes", "--train", train, "--val", val]
        missing = not Path("data/shapes/shapes.json").exists()
        self.do(f"drawing the Shapes data set: {train} + {val} images", [command] * missing)

    def compare(self, task: Task) -> None:
        """Both models side by side: ones as small as these gain little from a second core."""
        names = f"{task.name} with {' and with '.join(task.upsamplers)}"
        about = "some seconds" if self.quick else f"about {task.minutes:g} min on 2 CPU cores"
        untested = [upsampler for upsampler in task.upsamplers if not task.results(upsampler)]
        commands: list[Command] = []
        for upsampler in untested:
            command = ["tools/train.py", task.config_file(upsampler), "--resume"]
            command += ["--work-dir", task.run(upsampler), "--cfg-options", *OPTIONS]
            commands.append(command + (task.quick if self.quick else []))
        self.do(f"training {names} ({about})", commands)

        models = {u: [task.config_file(u), task.checkpoint(u)] for u in task.upsamplers}
        commands = []
        for upsampler in untested:
            command = ["tools/test.py", *models[upsampler], "--cfg-options", *OPTIONS]
            commands.append([*command, "--work-dir", task.run(upsampler) / "test"])
        self.do(f"testing {names}", commands)

        command = ["tools/analysis/predictions.py"]
        for upsampler, model in models.items():
            command += ["--model", upsampler, *model]
        self.draw(task.image, command)

    def draw(self, image: str, command: Command) -> None:
        missing = not Path(image).exists()
        draft = Path("logs", image)  # of which a tool that was interrupted may leave a part
        draft.unlink(missing_ok=True)
        self.do(f"drawing {image}", [[*command, "--out", draft]] * missing)
        if missing:
            draft.rename(image)

    def do(self, what: str, commands: list[Command]) -> None:
        """One step: tools that run side by side, none where an earlier demo has done it."""
        self.step += 1
        line = f"[{self.step}/{self.steps}] {what}"
        if not commands:
            print(f"{line}: done before", flush=True)
            return
        print(line, flush=True)
        started = time.monotonic()
        logs = [Path("logs", f"{self.step}-{number}.log") for number in range(len(commands))]
        call(dict(zip(logs, commands, strict=True)))
        print(f"      done in {time.monotonic() - started:.0f} s", flush=True)


def call(commands: dict[Path, Command]) -> None:
    """Run tools side by side, their output in the logs given, and show how far they are.

    Raises:
        StepError: a tool failed; the others have been stopped.
    """
    # Threads that spin while they wait make a busy machine ten times slower.
    threads = str(max(1, os.cpu_count() // len(commands)))
    environment = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": threads, **os.environ}
    processes: dict[Path, subprocess.Popen] = {}
    try:
        for log, (tool, *arguments) in commands.items():
            with log.open("w") as output:
                processes[log] = subprocess.Popen(
                    [sys.executable, ROOT / tool, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                )
        running = True
        while running:
            time.sleep(0.1)
            running = any(process.poll() is None for process in processes.values())
            for log, process in processes.items():
                if process.returncode:
                    reason = log.read_text(errors="replace").strip().rpartition("\n")[2]
                    tool = commands[log][0]
                    raise StepError(f"{tool} failed ({reason}); its output is in {log.absolute()}")
            if sys.stdout.isatty():
                print(f"\r\033[K      {' | '.join(map(progress, processes))}", end="\r", flush=True)
    finally:
        for process in processes.values():
            process.send_signal(signal.SIGINT)  # which does nothing to one that has ended
        for process in processes.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def progress(log: Path) -> str:
    """How far training is, by the last line of its log that tells it."""
    found = re.findall(r"eta: ([\d:]+).*?loss: ([\d.]+)", log.read_text(errors="replace"))
    return "loss {1}, about {0} left".format(*found[-1]) if found else "starting"


def table() -> str:
    """The comparison as text."""
    lines = [f"{'model':13} {'upsampler':10} {'result':21} added parameters"]
    for task in TASKS:
        for upsampler in task.upsamplers:
            results = json.loads(task.results(upsampler).read_text())
            first, second = (
                f"{heading} {task.percent * results[name]:.1f}"
                for heading, name in task.metrics.items()
            )
            added = count_parameters(task.checkpoint(upsampler))
            lines.append(f"{task.name:13} {upsampler:10} {first:10} {second:10} {added:,}")
    lines.append("One short training each, one seed: differences of a point or two are chance.")
    return "\n".join(lines) + "\n"


def count_parameters(checkpoint: Path) -> int:
    """Those of the upsamplers."""
    from mmdysample.engine.checkpoint import load_checkpoint_file

    state = load_checkpoint_file(checkpoint)["state_dict"]
    return sum(
        value.numel()
        for name, value in state.items()
        if ".upsample_modules." in name and not name.endswith(".init_pos")
    )


if __name__ == "__main__":
    sys.exit(main())
