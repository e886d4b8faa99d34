"""Train a small detector and a small segmentor with and without DySample, compare, draw.

Everything runs on the Shapes data set through the tools that a user would call: make_shapes.py,
train.py, test.py and those in analysis/. What is finished is kept: a demo that was interrupted
goes on where it stopped when it is started again. Nothing is ever removed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MARKER = "demo.json"
"""Lies in every directory that the demo made, and tells what it was made from."""
SECONDS_TO_STOP = 10
interrupted = threading.Event()
"""Set by Ctrl-C and SIGTERM."""


class DemoError(Exception):
    """One sentence for the user; a step failed."""

    status = 1


class WorkDirError(DemoError):
    """The directory that the user chose will not do."""

    status = 2


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
    annotations: str | None
    """File that the evaluator reads, in the directory of the data set."""
    picture: str
    quick: dict[str, dict[str, int]]
    """Settings of a run of seconds."""
    minutes: float
    """Of training both models side by side, on two CPU cores."""


DETECTOR = Task(
    name="Faster R-CNN",
    config="faster-rcnn_r18_fpn_{}_shapes.py",
    upsamplers=("Nearest", "DySample"),
    metrics={"AP": "coco/bbox_mAP", "AP50": "coco/bbox_mAP_50"},
    percent=100,
    annotations="annotations/instances_val2017.json",
    picture="detections.png",
    quick=dict(train_cfg=dict(max_epochs=1)),
    minutes=4,
)
SEGMENTOR = Task(
    name="SegFormer",
    config="segformer_mit-b0_{}_shapes.py",
    upsamplers=("Bilinear", "DySample"),
    metrics={"mIoU": "mIoU", "mAcc": "mAcc"},
    percent=1,
    annotations=None,
    picture="segmentation.png",
    quick=dict(train_cfg=dict(max_iters=2), train_dataloader=dict(batch_size=2)),
    minutes=2.5,
)
TASKS = (DETECTOR, SEGMENTOR)


class Result(NamedTuple):
    """What one model reached."""

    metrics: dict[str, float]
    """Heading -> percent."""
    parameters: int
    """Of the upsamplers."""
    seconds: float
    """Of training."""
    in_one_go: bool
    """False if training was interrupted: ``seconds`` are those of its last part."""


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
    return args


def main() -> int:
    args = parse_args()
    # Noted here and acted on between steps of our own: raised in the midst of starting a tool, it
    # would leave the tool running.
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda signum, frame: interrupted.set())
    try:
        open_work_dir(args.work_dir, args.quick)
        Demo(args.work_dir, args.quick).run()
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except OSError as error:
        print(f"error: {error.filename or args.work_dir}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = shlex.join(["bash", "tools/demo.sh", *sys.argv[1:]])
        print(f"\ninterrupted; to go on from here: {again}", file=sys.stderr)
        return 130
    return 0


def open_work_dir(work_dir: Path, quick: bool) -> None:
    """Make the directory, unless it holds a demo of the same settings, which is continued.

    Raises:
        WorkDirError: it holds anything else.
    """
    made_from = {"tool": "mmdysample demo", "quick": quick, "code": code_fingerprint()}
    marker = work_dir / MARKER
    if work_dir.exists() and not work_dir.is_dir():
        raise WorkDirError(f"{work_dir} is a file: choose a directory with --work-dir")
    if not work_dir.exists() or not any(work_dir.iterdir()):
        work_dir.mkdir(parents=True, exist_ok=True)
        write_json(marker, made_from)
        return
    before = read_marker(marker)
    if before is None:
        raise WorkDirError(
            f"{work_dir} was not made by the demo and is left as it is: choose a new or an "
            "empty directory with --work-dir"
        )
    if before != made_from:
        how = "other code or configs"
        if before.get("quick") != quick:
            how = "--quick" if before.get("quick") else "all images and iterations"
        raise WorkDirError(
            f"{work_dir} holds a demo made with {how} and is left as it is: choose another "
            "directory with --work-dir, or remove it"
        )


def read_marker(marker: Path) -> dict[str, Any] | None:
    """What a demo was made from, None if the directory is not the demo's."""
    try:
        found = json.loads(marker.read_text())
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("tool") == "mmdysample demo" else None


def code_fingerprint() -> str:
    """Changes with anything that results depend on: kept ones would be of another program."""
    digest = hashlib.sha256()
    places = ("mmdysample", "configs/_base_", "configs/shapes", "tools")
    for path in sorted(path for place in places for path in (ROOT / place).rglob("*.py")):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Whole or not at all."""
    from mmdysample.engine.atomic import write_text

    write_text(path, text)


def write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=2) + "\n")


class Demo:
    """The steps in their order, in a directory of their own."""

    def __init__(self, work_dir: Path, quick: bool) -> None:
        self.work_dir = work_dir
        self.quick = quick
        self.data = work_dir / "shapes"
        self.step = 0
        self.steps = 1 + sum(1 + len(task.upsamplers) + 1 for task in TASKS) + 1

    def run(self) -> None:
        start = time.monotonic()
        print(f"Everything goes to {self.work_dir}; what is done is kept. Ctrl-C stops.")
        self.draw_data()
        results = []
        for task in TASKS:
            self.train(task)
            for upsampler in task.upsamplers:
                trained = json.loads(self.trained(task, upsampler).read_text())
                metrics = self.test(task, upsampler)
                parameters = self.count_parameters(task, upsampler)
                result = Result(metrics, parameters, **trained)
                results.append((task, upsampler, result))
        pictures = [self.draw_predictions(task) for task in TASKS]
        pictures.append(self.draw_sampling_points())
        report = table(results)
        write_whole(self.work_dir / "results.txt", report)
        print(f"\n{report}\nPictures:")
        for picture in pictures:
            print(f"  {picture}")
        print(f"Done in {clock(time.monotonic() - start)}.")

    def draw_data(self) -> None:
        train, val = ("24", "8") if self.quick else ("400", "100")
        what = f"drawing the Shapes data set: {train} images to train on, {val} to test on"
        command = ["tools/make_shapes.py", self.data, "--train", train, "--val", val]
        done = self.data / "shapes.json"
        self.do(what, [done], lambda log: self.call((command, log)))

    def train(self, task: Task) -> None:
        """Train both models side by side: ones as small as these gain little from a second core."""

        def command(upsampler: str) -> list[str | Path]:
            config, directory = self.config(task, upsampler), self.run_directory(task, upsampler)
            return ["tools/train.py", config, "--work-dir", directory, "--resume"]

        def work(log: Path) -> None:
            runs = {}
            for upsampler in task.upsamplers:
                if not self.trained(task, upsampler).exists():
                    own_log = log.with_name(f"{log.stem}-{upsampler.lower()}.log")
                    runs[upsampler] = (command(upsampler), own_log)
            in_one_go = {
                name: not any(self.run_directory(task, name).glob("*.pth")) for name in runs
            }
            ended = self.call(*runs.values())
            for upsampler, seconds in zip(runs, ended, strict=True):
                what = {"seconds": seconds, "in_one_go": in_one_go[upsampler]}
                write_json(self.trained(task, upsampler), what)

        about = "some seconds" if self.quick else f"about {task.minutes:g} min on 2 CPU cores"
        what = f"training {task.name} with {' and with '.join(task.upsamplers)} ({about})"
        self.do(what, [self.trained(task, upsampler) for upsampler in task.upsamplers], work)

    def trained(self, task: Task, upsampler: str) -> Path:
        """There when training has ended; the fields of Result that it tells."""
        return self.run_directory(task, upsampler) / "trained.json"

    def test(self, task: Task, upsampler: str) -> dict[str, float]:
        directory = self.run_directory(task, upsampler)
        done = directory / "tested.json"
        out = directory / "test"

        def work(log: Path) -> None:
            command = ["tools/test.py", self.config(task, upsampler), checkpoint(directory)]
            self.call(([*command, "--work-dir", out], log))
            newest = max(out.glob("*/*.json"))  # of a test that was interrupted there is none
            write_json(done, json.loads(newest.read_text()))

        self.do(f"testing {task.name} with {upsampler}", [done], work)
        found = json.loads(done.read_text())
        return {heading: task.percent * found[name] for heading, name in task.metrics.items()}

    def count_parameters(self, task: Task, upsampler: str) -> int:
        with warnings.catch_warnings():
            # mmengine's imports warn of what only its makers can change
            warnings.simplefilter("ignore")
            from mmdysample.engine.checkpoint import load_checkpoint_file

        path = checkpoint(self.run_directory(task, upsampler))
        return sum(
            value.numel()
            for name, value in load_checkpoint_file(path)["state_dict"].items()
            if ".upsample_modules." in name and not name.endswith(".init_pos")
        )

    def draw_predictions(self, task: Task) -> Path:
        models: list[str | Path] = []
        for upsampler in task.upsamplers:
            path = checkpoint(self.run_directory(task, upsampler))
            models += ["--model", upsampler, self.config(task, upsampler), path]
        return self.draw(["tools/analysis/predictions.py", *models], task.picture)

    def draw_sampling_points(self) -> Path:
        upsampler = DETECTOR.upsamplers[1]
        path = checkpoint(self.run_directory(DETECTOR, upsampler))
        image = sorted((self.data / "val2017").iterdir())[2]
        command = ["tools/analysis/sampling_points.py", self.config(DETECTOR, upsampler)]
        return self.draw([*command, path, image], "sampling_points.png")

    def draw(self, command: list[str | Path], name: str) -> Path:
        picture = self.work_dir / name

        def work(log: Path) -> None:
            with tempfile.TemporaryDirectory(dir=self.work_dir) as directory:
                draft = Path(directory) / name
                self.call(([*command, "--out", draft], log))
                draft.replace(picture)

        self.do(f"drawing {name}", [picture], work)
        return picture

    def run_directory(self, task: Task, upsampler: str) -> Path:
        return self.work_dir / self.original(task, upsampler).stem

    def original(self, task: Task, upsampler: str) -> Path:
        return ROOT / "configs" / "shapes" / task.config.format(upsampler.lower())

    def config(self, task: Task, upsampler: str) -> Path:
        """A config of the Shapes data set with the data and the settings of this demo.

        Raises:
            WorkDirError: there is another one in its place.
        """
        settings: dict[str, dict[str, Any]] = {}
        for split in ("train", "val", "test"):
            settings[f"{split}_dataloader"] = {
                "dataset": {"data_root": f"{self.data}/"},
                # loading takes milliseconds: processes for it would only compete for the cores
                "num_workers": 0,
                "persistent_workers": False,
            }
            if task.annotations and split != "train":
                settings[f"{split}_evaluator"] = {"ann_file": str(self.data / task.annotations)}
        settings["train_cfg"] = {"val_interval": 1_000_000}  # test.py evaluates afterwards
        for name, values in (task.quick if self.quick else {}).items():
            settings[name] |= values
        original = self.original(task, upsampler)
        lines = [f"{name} = {value!r}\n" for name, value in settings.items()]
        text = f"_base_ = {str(original)!r}\n" + "".join(lines)
        path = self.work_dir / "configs" / original.name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_whole(path, text)
        if path.read_text() != text:
            raise WorkDirError(
                f"{path} is not as the demo wrote it and is left as it is: remove it, or choose "
                "another directory with --work-dir"
            )
        return path

    def do(self, what: str, done: list[Path], work: Callable[[Path], None]) -> None:
        """One step, unless ``done`` are there from an earlier run; ``work`` gets its log."""
        if interrupted.is_set():
            raise KeyboardInterrupt
        self.step += 1
        line = f"[{self.step}/{self.steps}] {what}"
        if all(path.exists() for path in done):
            print(f"{line}: done before", flush=True)
            return
        logs = self.work_dir / "logs"
        logs.mkdir(exist_ok=True)
        log = logs / f"{self.step:02}-{re.sub('[^a-z0-9]+', '-', what.split(' (')[0].lower())}.log"
        print(line, flush=True)
        start = time.monotonic()
        work(log)
        show(f"      done in {clock(time.monotonic() - start)}", last=True)

    def call(self, *runs: tuple[list[str | Path], Path]) -> list[float]:
        """Run tools side by side, showing how far they are; the seconds that each took.

        Args:
            runs: command of a tool, and the log that its output goes to.

        Raises:
            DemoError: a tool failed; the others have been stopped.
        """
        start = time.monotonic()
        seconds = [0.0] * len(runs)
        running: dict[int, subprocess.Popen] = {}
        try:
            for number, (command, log) in enumerate(runs):
                running[number] = launch(command, log, len(runs))
            while running:
                if interrupted.wait(0.2):
                    raise KeyboardInterrupt
                if sys.stdout.isatty():
                    show("      " + " | ".join(progress(log) for _, log in runs))
                for number in [n for n, process in running.items() if process.poll() is not None]:
                    process = running.pop(number)
                    stop(process)  # what it may have left running
                    seconds[number] = time.monotonic() - start
                    if process.returncode:
                        raise failure(*runs[number], process.returncode)
        finally:
            for process in running.values():
                stop(process)
        return seconds


def launch(command: list[str | Path], log: Path, side_by_side: int) -> subprocess.Popen:
    tool, *arguments = map(str, command)
    # Threads that spin while they wait make a busy machine ten times slower.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    if side_by_side > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // side_by_side)))
    # A group of its own: Ctrl-C comes to this process, which then ends all of the group.
    return subprocess.Popen(
        [sys.executable, ROOT / tool, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=environment,
    )


def failure(command: list[str | Path], log: Path, status: int) -> DemoError:
    reason = error_line(log) or f"exit status {status}"
    return DemoError(f"{command[0]} failed ({reason}); its output is in {log}")


def checkpoint(directory: Path) -> Path:
    """The last one that training in ``directory`` wrote."""
    # The path in it is absolute, and the demo may have been copied or moved since.
    return directory / Path((directory / "last_checkpoint").read_text().strip()).name


def stop(process: subprocess.Popen) -> None:
    """End a tool and the processes that it started, all of one group."""
    for sign in (signal.SIGINT, signal.SIGKILL):
        deadline = time.monotonic() + SECONDS_TO_STOP
        try:
            os.killpg(process.pid, sign)
            while time.monotonic() < deadline:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.05)
        except ProcessLookupError:
            break
    process.wait()


def progress(log: Path) -> str:
    """How far training or testing is, by the last line of a log that tells it."""
    for line in reversed(log.read_text(errors="replace").splitlines()):
        found = re.search(r"eta: ([\d:]+).*?loss: ([\d.]+)", line)
        if found:
            return f"loss {found[2]}, about {found[1]} left"
    return "starting"


def error_line(log: Path) -> str | None:
    """The sentence that a tool ended with."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line.startswith("error: ")), None)


def show(text: str, last: bool = False) -> None:
    """On a terminal each text replaces the one before, until the last."""
    if sys.stdout.isatty():
        print(f"\r\033[K{text}", end="\n" if last else "", flush=True)
    elif last:
        print(text, flush=True)


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def table(results: list[tuple[Task, str, Result]]) -> str:
    """The comparison as text."""
    rows = [("model", "upsampler", "result", "", "added parameters", "training")]
    for task, upsampler, result in results:
        metrics = [f"{heading} {value:.1f}" for heading, value in result.metrics.items()]
        seconds = f"{result.seconds:.0f} s" + ("" if result.in_one_go else " *")
        rows.append((task.name, upsampler, *metrics, f"{result.parameters:,}", seconds))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        lines.append("  ".join(cell.ljust(width) for cell, width in cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    if not all(result.in_one_go for _, _, result in results):
        lines.append("* was interrupted; the seconds are those of the last part")
    lines.append(
        "One short training each, all with the same seed: differences of a point or two are chance."
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
