"""tools/demo.py between stand-ins for the tools that it calls, and once as it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import cv2
import torch

from tools import demo

ROOT = Path(__file__).parents[2]
STEPS = 8
TRAINED = "segformer_mit-b0_dysample_shapes"

STAND_IN = """
import pathlib, shutil, sys, time
root, name = pathlib.Path({root!r}), pathlib.Path(sys.argv[0]).stem
with (root / "calls").open("a") as calls:
    print(name, *sys.argv[1:], file=calls)
if name in (root / "fails").read_text():
    sys.exit("error: it broke")
if name in (root / "hangs").read_text():
    time.sleep(60)
option = dict(zip(sys.argv, sys.argv[1:]))
if name == "make_shapes":
    for image in "abc":
        (pathlib.Path(sys.argv[1], "val2017") / image).mkdir(parents=True)
    pathlib.Path(sys.argv[1], "shapes.json").touch()
elif name == "train":
    run = pathlib.Path(option["--work-dir"])
    run.mkdir(exist_ok=True)
    shutil.copy(root / "model.pth", run / "last.pth")
    (run / "last_checkpoint").write_text(str(run / "last.pth"))
elif name == "test":
    run = pathlib.Path(option["--work-dir"], "1")
    run.mkdir(parents=True)
    shutil.copy(root / "results.json", run / "1.json")
else:
    with open(option["--out"], "x") as image:  # what exists is refused
        image.write("drawn")
"""


class Machine:
    """A project of demo.py and stand-ins, which note how they are called."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "project"
        self.work_dir = directory / "out, of the demo"  # what --cfg-options would cut
        for name in (
            "make_shapes",
            "train",
            "test",
            "analysis/predictions",
            "analysis/sampling_points",
        ):
            path = self.root / "tools" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(STAND_IN.format(root=str(self.root)))
        shutil.copy(demo.__file__, self.root / "tools")
        self.set(fails="", hangs="")
        state = {
            "neck.upsample_modules.0.offset.weight": torch.zeros(5, 2),
            "backbone": torch.ones(9),
        }
        state["neck.upsample_modules.0.init_pos"] = torch.ones(3)
        torch.save({"state_dict": state}, self.root / "model.pth")
        results = {"coco/bbox_mAP": 0.25, "coco/bbox_mAP_50": 0.5, "mIoU": 12.34, "mAcc": 56.78}
        (self.root / "results.json").write_text(json.dumps(results))

    def set(self, **names: str) -> None:
        for file, name in names.items():
            (self.root / file).write_text(name)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, self.root / "tools/demo.py", "--work-dir", self.work_dir, *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def calls(self) -> list[str]:
        """Those since the last time."""
        file = self.root / "calls"
        calls = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return calls


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def run(machine: Machine, monkeypatch, capsys):
    """Calls the demo in this process: status, standard output and standard error."""
    monkeypatch.setattr(demo, "ROOT", machine.root)
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    monkeypatch.chdir(machine.root)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["demo", "--work-dir", str(machine.work_dir), *arguments])
        try:
            status = demo.main()
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize("quick", [False, True])
def test_it_trains_tests_and_draws_everything_and_then_nothing_again(machine, run, quick) -> None:
    arguments = ["--quick"] if quick else []
    status, output, errors = run(*arguments)
    assert (status, errors) == (0, "")
    announced = re.findall(r"^\[(\d+)/(\d+)\] ", output, re.MULTILINE)
    assert announced == [(str(step), str(STEPS)) for step in range(1, STEPS + 1)]
    calls = machine.calls()
    assert sorted(call.split()[0] for call in calls) == [
        *["make_shapes", "predictions", "predictions", "sampling_points"],
        *["test"] * 4,
        *["train"] * 4,
    ]
    images = "--train 24 --val 8" if quick else "--train 400 --val 100"
    assert calls[0] == f"make_shapes data/shapes {images}"
    for call in calls:
        if call.startswith("train"):
            assert "--resume" in call and "train_dataloader.num_workers=0" in call
            assert ("train_cfg.max_" in call) == quick
        if call.startswith("test"):
            assert re.search(r"/(\S+)\.py \1/last.pth .* --work-dir \1/test$", call)
    for name in ("detections.png", "segmentation.png", "sampling_points.png"):
        assert (machine.work_dir / name).read_text() == "drawn"

    table = (machine.work_dir / "results.txt").read_text()
    assert table in output
    assert "Faster R-CNN  Nearest    AP 25.0    AP50 50.0  10\n" in table
    assert "SegFormer     DySample   mIoU 12.3  mAcc 56.8  10\n" in table

    status, output, _ = run(*arguments)
    assert (status, machine.calls()) == (0, [])
    assert output.count(": done before") == STEPS and table in output


def test_only_what_is_missing_is_done_again_beside_a_users_files(machine, run) -> None:
    run()
    machine.calls()
    shutil.rmtree(machine.work_dir / TRAINED / "test")
    (machine.work_dir / "sampling_points.png").unlink()
    (machine.work_dir / "logs/sampling_points.png").write_text("a part of it")
    users = [
        machine.work_dir / name for name in ("thesis.txt", "logs/thesis.txt", f"{TRAINED}/mine.txt")
    ]
    for path in users:
        path.write_text("all of it")
    status, output, _ = run()
    assert status == 0
    assert output.count(": done before") == STEPS - 3  # training says that it is complete
    calls = [call.split()[0] for call in machine.calls()]
    assert calls == ["train", "test", "sampling_points"]
    assert (machine.work_dir / "sampling_points.png").read_text() == "drawn"
    assert [path.read_text() for path in users] == ["all of it"] * len(users)


def test_a_failing_tool_is_one_sentence_and_the_next_demo_goes_on(machine, run) -> None:
    machine.set(fails="test")
    status, _, errors = run()
    assert status == 1
    (log,) = re.findall(
        r"^error: tools/test.py failed \(error: it broke\); its output is in (.+)\n$", errors
    )
    assert "it broke" in Path(log).read_text()
    machine.set(fails="")
    machine.calls()
    assert run()[0] == 0
    assert "make_shapes" not in " ".join(machine.calls())


def test_when_a_tool_fails_those_beside_it_are_stopped(machine, run, tmp_path, monkeypatch) -> None:
    machine.set(fails="train", hangs="test")
    monkeypatch.chdir(tmp_path)
    logs = [tmp_path / "failing.log", tmp_path / "hanging.log"]
    started = time.monotonic()
    with pytest.raises(demo.StepError, match=r"tools/train\.py failed"):
        demo.call(dict(zip(logs, (["tools/train.py"], ["tools/test.py"]), strict=True)))
    assert time.monotonic() - started < 20
    assert processes_of(machine.root / "tools/test.py") == 0


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_processes_and_says_how_to_go_on(machine, sign) -> None:
    machine.set(hangs="train")
    process = machine.start("--quick")
    deadline = time.monotonic() + 60
    while processes_of(machine.root / "tools/train.py") < 2:
        assert time.monotonic() < deadline, "the demo never came to train"
        time.sleep(0.05)
    process.send_signal(sign)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (
        f"to go on from here: bash tools/demo.sh --work-dir '{machine.work_dir}' --quick" in errors
    )
    assert "Traceback" not in errors
    assert processes_of(machine.root / "tools/train.py") == 0


def processes_of(script: Path) -> int:
    """How many processes have the path in their command line."""
    count = 0
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            count += str(script).encode() in cmdline.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return count


def test_the_marker_is_written_once_and_whole(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)

    def interrupt(*paths) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", interrupt)
        demo.write_marker(quick=True)
    assert list(tmp_path.iterdir()) == []
    demo.write_marker(quick=True)
    before = Path(demo.MARKER).stat()
    demo.write_marker(quick=True)
    after = Path(demo.MARKER).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert demo.mistake_in(tmp_path, quick=True) is None


def test_a_copied_demo_has_its_own_checkpoints(tmp_path, monkeypatch) -> None:
    """What training notes may be an absolute path, of the demo that was copied."""
    run = tmp_path / TRAINED
    run.mkdir()
    (run / "last_checkpoint").write_text("/gone/iter_2.pth\n")
    monkeypatch.chdir(tmp_path)
    assert demo.SEGMENTOR.checkpoint("DySample") == Path(TRAINED, "iter_2.pth")


@pytest.mark.parametrize(
    ("marker", "says"),
    [
        (None, "was not made by the demo"),
        ("[]", "was not made by the demo"),
        ('{"tool": "another"}', "was not made by the demo"),
        ("{", "was not made by the demo"),
        ('{"quick": true}', "holds a demo with --quick"),
    ],
)
def test_another_directory_is_left_as_it_is(machine, run, marker, says) -> None:
    work_dir = machine.work_dir
    work_dir.mkdir()
    (work_dir / "results.txt").write_text("all of it")
    if marker is not None:
        (work_dir / "demo.json").write_text(marker)
    before = {path.name: path.read_text() for path in work_dir.iterdir()}
    message = f"error: {work_dir} {says}: choose another one with --work-dir\n"
    assert run() == (2, "", message)
    assert {path.name: path.read_text() for path in work_dir.iterdir()} == before


@pytest.mark.slow
def test_the_quick_demo_as_it_is(tmp_path: Path) -> None:
    work_dir = tmp_path / "out, of the demo"
    result = subprocess.run(
        [sys.executable, demo.__file__, "--quick", "--work-dir", work_dir],
        capture_output=True,
        text=True,
        timeout=900,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for name in ("detections.png", "segmentation.png", "sampling_points.png"):
        image = cv2.imread(str(work_dir / name))
        assert min(image.shape[:2]) > 500 and image.std() > 20
    table = (work_dir / "results.txt").read_text()
    # a stage at 64 channels: 2 * groups * s * s outputs of a 1x1 convolution with bias
    stage = (64 + 1) * 2 * 4 * 4
    for name, upsampler, first, second, parameters in [
        ("Faster R-CNN", "Nearest", "AP", "AP50", 0),
        ("Faster R-CNN", "DySample", "AP", "AP50", 3 * stage),
        ("SegFormer", "Bilinear", "mIoU", "mAcc", 0),
        ("SegFormer", "DySample", "mIoU", "mAcc", 6 * stage),
    ]:
        (row,) = re.findall(rf"^{name} +{upsampler} .*$", table, re.MULTILINE)
        assert re.search(rf" {first} \d+\.\d +{second} \d+\.\d +{parameters:,}$", row), row
    logged = re.findall(
        r"mIoU: (\d+\.\d+)  mAcc: (\d+\.\d+)", (work_dir / "logs/6-1.log").read_text()
    )
    assert row.split()[3::2] == [f"{float(value):.1f}" for value in logged[-1]]
