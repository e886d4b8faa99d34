"""tools/demo.sh as a user calls it, in its quick form: everything runs, nothing learns."""

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

from tools.demo import checkpoint

TOOLS = Path(__file__).parents[2] / "tools"
COMMAND = [sys.executable, str(TOOLS / "demo.py"), "--quick", "--work-dir"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
PICTURES = ("detections.png", "segmentation.png", "sampling_points.png")
STEPS = 10


def demo(work_dir: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [*COMMAND, str(work_dir), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=900, env=ENVIRONMENT, cwd=work_dir.parent
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """A folder with a finished demo, and what it printed."""
    # A comma and a space, which have a meaning in --cfg-options.
    work_dir = tmp_path_factory.mktemp("demo") / "out, of the demo"
    result = demo(work_dir)
    assert result.returncode == 0, result.stdout + result.stderr
    return work_dir, result


def test_it_trains_tests_and_draws_everything(finished):
    work_dir, result = finished
    assert "Traceback" not in result.stderr
    announced = re.findall(r"^\[(\d+)/(\d+)\] ", result.stdout, re.MULTILINE)
    assert announced == [(str(step), str(STEPS)) for step in range(1, STEPS + 1)]
    for name in PICTURES:
        picture = cv2.imread(str(work_dir / name))
        assert min(picture.shape[:2]) > 500 and picture.std() > 20


def test_the_table_has_every_model_with_the_parameters_that_dysample_adds(finished):
    work_dir, result = finished
    table = (work_dir / "results.txt").read_text()
    assert table in result.stdout
    # a stage at 64 channels: 2 * groups * s * s outputs of a 1x1 convolution with bias
    stage = (64 + 1) * 2 * 4 * 4
    for name, upsampler, metrics, parameters in [
        ("Faster R-CNN", "Nearest", ("AP", "AP50"), 0),
        ("Faster R-CNN", "DySample", ("AP", "AP50"), 3 * stage),
        ("SegFormer", "Bilinear", ("mIoU", "mAcc"), 0),
        ("SegFormer", "DySample", ("mIoU", "mAcc"), 6 * stage),
    ]:
        (row,) = re.findall(rf"^{name} +{upsampler} .*$", table, re.MULTILINE)
        first, second = metrics
        assert re.search(rf" {first} \d+\.\d +{second} \d+\.\d +{parameters:,} +\d+ s$", row), row


def test_the_same_numbers_stand_in_the_log_of_the_test(finished):
    work_dir, _ = finished
    (log,) = (work_dir / "logs").glob("07-testing-segformer-with-dysample.log")
    logged = re.findall(r"mIoU: (\d+\.\d+)  mAcc: (\d+\.\d+)", log.read_text())[-1]
    row = re.search(r"SegFormer +DySample.*", (work_dir / "results.txt").read_text())[0]
    shown = re.search(r"mIoU (\S+) +mAcc (\S+)", row).groups()
    assert shown == tuple(f"{float(value):.1f}" for value in logged)


def test_a_second_run_does_nothing_again_and_tells_the_same(finished):
    work_dir, _ = finished
    before = (work_dir / "results.txt").read_text()
    result = demo(work_dir)
    assert result.returncode == 0
    assert result.stdout.count(": done before") == STEPS
    assert before in result.stdout


def test_only_what_is_missing_is_done_again_beside_a_users_files(finished):
    work_dir, _ = finished
    folder = work_dir / "segformer_mit-b0_dysample_shapes"
    (folder / "tested.json").unlink()
    (work_dir / "sampling_points.png").unlink()
    users = [folder / "test" / "thesis.txt", work_dir / "draft-sampling_points.png"]
    users += [folder / "tested.json.part", work_dir / "shapes" / "thesis.txt"]
    for path in users:
        path.write_text("all of it")
    result = demo(work_dir)
    assert result.returncode == 0
    assert result.stdout.count(": done before") == STEPS - 2
    assert (work_dir / "sampling_points.png").is_file()
    assert [path.read_text() for path in users] == ["all of it"] * len(users)


def test_a_failing_step_is_one_sentence_with_its_log(finished, tmp_path):
    work_dir = tmp_path / "out"
    shutil.copytree(finished[0], work_dir)
    shutil.rmtree(work_dir / "configs")  # of the place that it was copied from
    folder = work_dir / "segformer_mit-b0_dysample_shapes"
    (folder / "tested.json").unlink()
    (folder / "broken.pth").write_bytes(b"not a checkpoint")
    (folder / "last_checkpoint").write_text(str(folder / "broken.pth"))
    result = demo(work_dir)
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: tools/test.py failed (error: checkpoint ")
    (log,) = re.findall(r"its output is in (.+)$", line)
    assert "broken.pth" in Path(log).read_text()


def test_a_copied_demo_has_its_own_checkpoints(tmp_path):
    """What training notes is an absolute path, of the demo that was copied."""
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.mkdir()
    (original / "iter_2.pth").touch()
    (original / "last_checkpoint").write_text(f"{original / 'iter_2.pth'}\n")
    shutil.copytree(original, copy)
    assert checkpoint(copy) == copy / "iter_2.pth"


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("marker", [None, "[]", '{"tool": "another"}', "{"])
def test_another_directory_is_left_as_it_is(tmp_path, marker):
    work_dir = tmp_path / "mine"
    work_dir.mkdir()
    (work_dir / "thesis.txt").write_text("all of it")
    if marker is not None:
        (work_dir / "demo.json").write_text(marker)
    before = contents(work_dir)
    result = demo(work_dir)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {work_dir} was not made by the demo")
    assert contents(work_dir) == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(quick=False), "all images and iterations"),
        (dict(code="another"), "other code or configs"),
    ],
)
def test_a_demo_of_other_settings_is_left_as_it_is(finished, tmp_path, change, says):
    """With all that a user has put into it."""
    work_dir = tmp_path / "out"
    work_dir.mkdir()
    marker = json.loads((finished[0] / "demo.json").read_text())
    (work_dir / "demo.json").write_text(json.dumps(marker | change))
    (work_dir / "shapes").mkdir()
    for name in ("results.txt", "thesis.txt", "shapes/thesis.txt"):
        (work_dir / name).write_text("all of it")
    before = contents(work_dir)
    result = demo(work_dir)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {work_dir} holds a demo made with {says} and is left")
    assert "--work-dir" in result.stderr and result.stderr.count("\n") == 1
    assert contents(work_dir) == before


def test_a_config_that_a_user_changed_is_left_as_it_is(finished, tmp_path):
    work_dir = tmp_path / "out"
    shutil.copytree(finished[0], work_dir)
    (work_dir / "detections.png").unlink()
    config = work_dir / "configs" / "faster-rcnn_r18_fpn_nearest_shapes.py"
    config.write_text("mine = 1\n")
    result = demo(work_dir)
    assert result.returncode == 2
    assert f"{config} is not as the demo wrote it" in result.stderr
    assert config.read_text() == "mine = 1\n"


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_processes_and_says_how_to_go_on(tmp_path, sign):
    work_dir = tmp_path / "out"
    process = subprocess.Popen(
        [*COMMAND, str(work_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    wait_for_line(process, "[2/")
    wait_for(lambda: processes_of(work_dir) >= 3)
    status, stderr = interrupt(process, sign)
    assert status == 130
    assert "to go on from here: bash tools/demo.sh --quick --work-dir" in stderr
    assert "Traceback" not in stderr
    assert processes_of(work_dir) == 0


def wait_for_line(process: subprocess.Popen, start: str) -> None:
    for line in process.stdout:
        if line.startswith(start):
            return
    raise AssertionError(f"the demo ended before {start}")


def interrupt(process: subprocess.Popen, sign: signal.Signals) -> tuple[int, str]:
    process.send_signal(sign)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr or ""


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def processes_of(work_dir: Path) -> int:
    """How many processes have the folder in their command line: the demo and its tools."""
    count = 0
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            count += str(work_dir).encode() in cmdline.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return count


@pytest.fixture
def clone(tmp_path) -> Path:
    """demo.sh between a set-up and a Python that write down how they are called."""
    root = tmp_path / "clone"
    (root / "tools").mkdir(parents=True)
    shutil.copy(TOOLS / "demo.sh", root / "tools")
    (root / "tools/setup_env.sh").write_text('echo "setup" >>calls; exit "${SETUP_STATUS:-0}"\n')
    python = root / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "python $*" >>calls\nexit 7\n')
    python.chmod(0o755)
    return root


def call_demo_sh(clone: Path, **environment: str) -> tuple[int, list[str]]:
    command = ["bash", str(clone / "tools/demo.sh"), "--work-dir", "a b"]
    environment = {"PATH": os.environ["PATH"], **environment}
    result = subprocess.run(command, cwd=clone.parent, env=environment, timeout=60)
    return result.returncode, (clone.parent / "calls").read_text().splitlines()


def test_demo_sh_sets_up_and_then_runs_the_demo(clone):
    status, calls = call_demo_sh(clone)
    assert calls == ["setup", f"python {clone}/tools/demo.py --work-dir a b"]
    assert status == 7


def test_demo_sh_stops_when_the_set_up_fails(clone):
    assert call_demo_sh(clone, SETUP_STATUS="1") == (1, ["setup"])


@pytest.mark.parametrize("argument", ["-h", "--help"])
def test_demo_sh_tells_its_arguments_without_the_set_up(clone, argument):
    command = ["bash", str(clone / "tools/demo.sh"), argument]
    folder = clone.parent
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    for known in ("--work-dir DIR", "--quick"):
        assert known in result.stdout
    assert not (folder / "calls").exists()
