"""tools/make_shapes.py as a user calls it."""

import ctypes
import hashlib
import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("cv2", reason="needs OpenCV: bash tools/setup_env.sh installs it")

TOOL = Path(__file__).parents[2] / "tools/make_shapes.py"
SMALL = ["--train", "5", "--val", "2", "--size", "48", "64", "--workers", "2"]
LONG = ["--train", "5000", "--val", "2", "--size", "64", "64", "--workers", "2"]


def make(*arguments, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def start(*arguments, **options) -> subprocess.Popen:
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, **pipes, **options)


def wait_for(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def drawn_so_far(out: Path) -> int:
    return len(list(out.parent.glob(f"{out.name}.*.partial/images/training/*.jpg")))


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def assert_refused(result: subprocess.CompletedProcess, *parts: str) -> None:
    """One sentence on stderr that holds `parts`, and exit status 2."""
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    for part in parts:
        assert part in result.stderr


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("once") / "shapes"
    result = make(out, *SMALL)
    assert result.returncode == 0, result.stderr
    return out


def test_prints_one_line(tmp_path):
    result = make(tmp_path / "shapes", *SMALL)
    assert result.returncode == 0
    assert result.stderr == ""
    assert result.stdout.startswith(f"{tmp_path}/shapes: 5 + 2 pictures of 48x64, seed 0, drawn in")
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]
    assert not [path for path in (tmp_path / "shapes").iterdir() if path.name.startswith(".")]


def test_quiet_prints_nothing(tmp_path):
    for _ in range(2):
        result = make(tmp_path / "shapes", *SMALL, "--quiet")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_matter(drawn, tmp_path, workers):
    assert make(tmp_path / "shapes", *SMALL, "--workers", workers).returncode == 0
    assert contents(tmp_path / "shapes") == contents(drawn)


def test_pictures_do_not_depend_on_how_many_there_are(drawn, tmp_path):
    assert make(tmp_path / "shapes", *SMALL, "--train", 3, "--val", 4).returncode == 0
    few, many = contents(tmp_path / "shapes"), contents(drawn)
    common = [path for path in few if path in many and not path.endswith(".json")]
    assert len([path for path in common if "/training/" in path or "train2017/" in path]) >= 3 * 5
    assert all(few[path] == many[path] for path in common)

    def annotations(folder, split, image_ids):
        records = json.loads((folder / f"annotations/instances_{split}2017.json").read_text())
        return [a for a in records["annotations"] if a["image_id"] in image_ids]

    assert annotations(tmp_path / "shapes", "train", {1, 2, 3}) == annotations(
        drawn, "train", {1, 2, 3}
    )


def test_seed_matters(drawn, tmp_path):
    assert make(tmp_path / "shapes", *SMALL, "--seed", 1).returncode == 0
    first, second = contents(tmp_path / "shapes"), contents(drawn)
    same = [path for path in first if first[path] == second.get(path)]
    assert not [path for path in same if path.endswith(".jpg")]


def test_second_run_changes_nothing(drawn):
    before = contents(drawn)
    times = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    result = make(drawn, *SMALL)
    assert result.returncode == 0
    assert "is there already: 5 + 2 pictures of 48x64" in result.stdout
    assert contents(drawn) == before
    assert times == {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}


def test_other_arguments_need_overwrite(tmp_path):
    out = tmp_path / "shapes"
    make(out, *SMALL)
    before = contents(out)
    other = [*SMALL, "--seed", "7"]
    assert_refused(make(out, *other), "seed=0", "--overwrite")
    assert contents(out) == before
    assert make(out, *other, "--overwrite").returncode == 0
    assert json.loads((out / "shapes.json").read_text())["arguments"]["seed"] == 7
    assert contents(out) != before
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]
    assert "is there already" in make(out, *other).stdout


def test_lost_files_are_noticed(tmp_path):
    out = tmp_path / "shapes"
    make(out, *SMALL)
    before = contents(out)
    (out / "train2017/000000000002.jpg").unlink()
    assert_refused(make(out, *SMALL), "lost 1 of its files", "000000000002.jpg", "--overwrite")
    assert make(out, *SMALL, "--overwrite").returncode == 0
    assert contents(out) == before


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["plain", "overwrite"])
@pytest.mark.parametrize("marker", [None, "not json", "[]", '{"tool": "another"}'])
def test_foreign_folder_is_left_alone(tmp_path, overwrite, marker):
    (tmp_path / "thesis.txt").write_text("years of work")
    if marker is not None:
        (tmp_path / "shapes.json").write_text(marker)
    before = contents(tmp_path)
    assert_refused(make(tmp_path, *SMALL, *overwrite), "not made by this tool", str(tmp_path))
    assert contents(tmp_path) == before


def add(folder: Path) -> str:
    (folder / "annotations/notes.txt").write_text("years of work")
    return "annotations/notes.txt in it was not made by this tool"


def edit(folder: Path) -> str:
    path = folder / "annotations/validation/000010000001.png"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # of the same size
    path.write_bytes(content)
    return "annotations/validation/000010000001.png in it was changed"


def link(folder: Path) -> str:
    (folder / "elsewhere").symlink_to(folder.parent)
    return "elsewhere in it was not made by this tool"


def replace_by_a_link(folder: Path) -> str:
    path = folder / "depth/training/000000000001.png"
    path.rename(folder.parent / "mine.png")
    path.symlink_to(folder.parent / "mine.png")
    return "depth/training/000000000001.png in it was changed"


def lose_the_list(folder: Path) -> str:
    marker = json.loads((folder / "shapes.json").read_text())
    (folder / "shapes.json").write_text(json.dumps({**marker, "files": None}))
    return "has no list of the files"


@pytest.mark.parametrize("work", [add, edit, link, replace_by_a_link, lose_the_list])
def test_a_users_work_in_it_is_not_overwritten(drawn, tmp_path, work):
    out = tmp_path / "shapes"
    shutil.copytree(drawn, out)
    says = work(out)
    before = contents(tmp_path)
    assert_refused(make(out, *SMALL, "--seed", 3, "--overwrite"), str(out), says)
    assert contents(tmp_path) == before
    # It is still known as the data set that it is.
    assert "is there already" in make(out, *SMALL).stdout


def test_a_users_work_that_comes_while_it_is_drawn(drawn, tmp_path):
    out = tmp_path / "shapes"
    shutil.copytree(drawn, out)
    process = start(out, *LONG[:1], "200", *LONG[2:], "--overwrite")
    wait_for(lambda: list(tmp_path.glob("shapes.*.partial")))
    add(out)
    before = contents(out)
    stdout, stderr = process.communicate(timeout=120)
    result = subprocess.CompletedProcess([], process.returncode, stdout, stderr)
    assert_refused(result, "annotations/notes.txt in it was not made by this tool")
    assert contents(out) == before
    assert list(tmp_path.iterdir()) == [out]


LATE = """
import os, sys
sys.path.insert(0, sys.argv[1])
import make_shapes

def add(event, arguments):
    if event == "os.rename" and os.fspath(arguments[0]) == sys.argv[2]:
        with open(os.path.join(sys.argv[2], "annotations", "notes.txt"), "w") as file:
            file.write("a week of work")

sys.addaudithook(add)
sys.exit(make_shapes.main(sys.argv[2:]))
"""


def test_a_users_work_that_comes_at_the_last_moment(drawn, tmp_path):
    """Just before the old data set is moved away."""
    out = tmp_path / "shapes"
    shutil.copytree(drawn, out)
    before = contents(out)
    arguments = [str(TOOL.parent), str(out), *SMALL, "--seed", "3", "--overwrite"]
    result = subprocess.run(
        [sys.executable, "-c", LATE, *arguments], capture_output=True, text=True, timeout=120
    )
    assert (out / "annotations" / "notes.txt").read_text() == "a week of work"
    assert_refused(result, str(out), "annotations/notes.txt in it was not made by this tool")
    after = contents(out)
    del after["annotations/notes.txt"]
    assert after == before
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("name", ["shapes.partial", "shapes.0123abcd.partial"])
def test_another_directory_of_the_name_of_an_unfinished_one(drawn, tmp_path, name):
    (tmp_path / name).mkdir()
    for inside in ("thesis.txt", ".drawing"):
        (tmp_path / name / inside).write_text("years of work")
    before = contents(tmp_path / name)
    assert make(tmp_path / "shapes", *SMALL).returncode == 0
    assert contents(tmp_path / name) == before


def test_empty_folder_and_link_are_fine(drawn, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert make(tmp_path / "link", *SMALL).returncode == 0
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "disk") == contents(drawn)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["OUT"]),
        (["new", "--train", "0"], ["--train", "'0'", "1"]),
        (["new", "--train", "-3"], ["--train", "'-3'"]),
        (["new", "--val", "many"], ["--val", "'many'"]),
        (["new", "--val", "1e3"], ["--val", "'1e3'"]),
        (["new", "--train", "1000001"], ["--train", "1000000"]),
        (["new", "--size", "0", "64"], ["--size", "'0'", "32"]),
        (["new", "--size", "64"], ["--size"]),
        (["new", "--size", "64", "5000"], ["--size", "'5000'", "4096"]),
        (["new", "--size", "64", "6.4"], ["--size", "'6.4'"]),
        (["new", "--seed", "-1"], ["--seed", "'-1'"]),
        (["new", "--seed", "x"], ["--seed", "'x'"]),
        (["new", "--workers", "0"], ["--workers", "'0'"]),
        (["new", "--colour", "red"], ["--colour"]),
        (["file"], ["is a file"]),
        (["file/new"], ["does not exist", "file"]),
        (["missing/new"], ["does not exist", "missing"]),
        (["new", "--train", "1000000", "--size", "4096", "4096"], ["MB free"]),
        (["x" * 300], ["x" * 300]),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_bad_arguments(tmp_path, arguments, parts):
    (tmp_path / "file").write_text("kept")
    assert_refused(make(*arguments, cwd=tmp_path), *parts)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "kept"


def test_missing_opencv(tmp_path):
    (tmp_path / "cv2.py").write_text("raise ModuleNotFoundError('No cv2', name='cv2')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert_refused(make(tmp_path / "new", env=environment), "cv2 is not installed", "opencv")
    assert not (tmp_path / "new").exists()


def test_folder_without_permission(tmp_path):
    def obey_permissions():
        """Take the right to write anywhere (CAP_DAC_OVERRIDE) from root; others do not have it."""
        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP

    tmp_path.chmod(0o555)
    result = make(tmp_path / "new", *SMALL, preexec_fn=obey_permissions)
    assert_refused(result, f"{tmp_path}/new", "Permission denied")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_failing_write_leaves_nothing(tmp_path, workers):
    """A limit on the size of a file stands for a full disk: the write fails in the same place."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    result = make(tmp_path / "shapes", *SMALL, "--workers", workers, preexec_fn=limit)
    assert_refused(result, f"cannot use {tmp_path}/shapes: File too large")
    assert list(tmp_path.iterdir()) == []


def test_failing_overwrite_keeps_the_old_data_set(tmp_path):
    out = tmp_path / "shapes"
    make(out, *SMALL)
    before = contents(out)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    result = make(out, *SMALL, "--seed", 1, "--overwrite", preexec_fn=limit)
    assert_refused(result, "File too large")
    assert contents(out) == before
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("workers", [1, 2])
def test_stopped_run_leaves_nothing(tmp_path, number, workers):
    out = tmp_path / "shapes"
    process = start(out, *LONG, "--workers", workers, start_new_session=True)
    wait_for(lambda: drawn_so_far(out) > 10)
    workers_of_it = children(process.pid)
    # Ctrl-C reaches the whole process group, kill only the process itself
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.startswith("stopped: ")
    assert stderr.count("\n") == 1, stderr
    assert list(tmp_path.iterdir()) == []
    assert not [pid for pid in workers_of_it if Path(f"/proc/{pid}").exists()]


def test_killed_run_leaves_no_half_data_set(drawn, tmp_path):
    out = tmp_path / "shapes"
    process = start(out, *LONG)
    wait_for(lambda: drawn_so_far(out) > 10)
    workers_of_it = children(process.pid)
    assert len(workers_of_it) == 2
    process.kill()
    process.communicate(timeout=60)
    (partial,) = tmp_path.iterdir()
    assert re.fullmatch(r"shapes\.[0-9a-f]{8}\.partial", partial.name)
    # the workers notice that nobody waits for them
    wait_for(lambda: not [pid for pid in workers_of_it if Path(f"/proc/{pid}").exists()])
    assert make(out, *SMALL).returncode == 0
    assert contents(out) == contents(drawn)
    assert sorted(tmp_path.iterdir()) == [out, partial]


def test_killed_worker_is_reported(tmp_path):
    process = start(tmp_path / "shapes", *LONG)
    wait_for(lambda: drawn_so_far(tmp_path / "shapes") > 10)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=60)
    assert_refused(
        subprocess.CompletedProcess([], process.returncode, stdout, stderr),
        "a drawing process was killed",
        "--workers",
    )
    assert list(tmp_path.iterdir()) == []


def test_two_runs_at_once(drawn, tmp_path):
    """The first to end has it; the other leaves it alone."""
    out = tmp_path / "shapes"
    late = start(out, *LONG[:1], "200", *LONG[2:])
    wait_for(lambda: drawn_so_far(out) > 10)
    assert make(out, *SMALL).returncode == 0
    stdout, stderr = late.communicate(timeout=120)
    result = subprocess.CompletedProcess([], late.returncode, stdout, stderr)
    assert_refused(result, f"{out} was made by another process")
    assert contents(out) == contents(drawn)
    assert list(tmp_path.iterdir()) == [out]


def test_progress_bar_on_a_terminal(tmp_path):
    terminal, stderr = pty.openpty()
    command = [sys.executable, str(TOOL), str(tmp_path / "shapes"), *SMALL]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=stderr, check=True, timeout=60)
    os.close(stderr)
    shown = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert "] 7/7 pictures" in shown
    assert f"[{'#' * 30}]" in shown
    assert shown.endswith("\r\n")
