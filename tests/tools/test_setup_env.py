"""tools/setup_env.sh with a stand-in for Python, so that nothing is installed or downloaded."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="tools/setup_env.sh is for Linux: run it there"
)

ROOT = Path(__file__).resolve().parents[2]

# Notes every call. FAIL_AT and HANG_AT are parts of the call that fails, or that hangs. Asked what
# mmcv is to be compiled against, it answers for a torch that the lines in TORCH define. Settings
# that lead pip or Python elsewhere must not come to it.
FAKE_PYTHON = """#!/usr/bin/env bash
echo "$* FORCE_CUDA=${FORCE_CUDA:-}" >>"$CALLS"
if [[ -n ${PIP_USER:-}${PYTHONPATH:-} || -n ${FAIL_AT:-} && $* == *$FAIL_AT* ]]; then
    echo 'ERROR: it broke' >&2
    exit 1
elif [[ -n ${HANG_AT:-} && $* == *$HANG_AT* ]]; then
    echo $$ >"$HANGING"
    exec sleep 60
fi
case $* in
-V) echo "Python ${VERSION:-3.11.0}" ;;
*ensurepip*) echo "$0" ;;
'-m venv '*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
*torch.version.cuda*) exec "$REAL" -I -c "$TORCH
$3" ;;
*'pip wheel'*)
    while [[ $1 != -w ]]; do shift; done
    echo wheel >"$2/mmcv-fake.whl"
    ;;
esac
"""


def torch(version: str, cuda: str | None, gpu: tuple[int, int] | None) -> str:
    """Lines that define a torch."""
    return f"""
import sys, types
torch = sys.modules["torch"] = types.ModuleType("torch")
torch.__version__ = {version!r}
torch.version = types.SimpleNamespace(cuda={cuda!r})
torch.cuda = types.SimpleNamespace(
    is_available=lambda: {gpu is not None}, get_device_capability=lambda: {gpu}
)"""


CPU = torch("2.13.0+cpu", None, None)


def wait_for_text(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline, f"nothing was written to {path}"
        time.sleep(0.02)


class Setup:
    """The files of a project that the set-up reads, and a machine with a fake Python."""

    def __init__(self, directory: Path) -> None:
        self.project = directory / "my project"
        self.venv = self.project / ".venv"
        self.cache = directory / "cache"
        self.bin = directory / "bin"
        self.calls_file = directory / "calls"
        self.hanging = directory / "hanging"
        shutil.copytree(ROOT / "requirements", self.project / "requirements")
        for name in ("tools/setup_env.sh", "setup.py", "mmdysample/version.py"):
            (self.project / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, self.project / name)
        self.bin.mkdir()
        self.add_program("python3.11", FAKE_PYTHON)
        self.add_program("g++", "#!/bin/sh\n")
        self.environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(directory),
            "MMDYSAMPLE_CACHE": str(self.cache),
            "CALLS": str(self.calls_file),
            "HANGING": str(self.hanging),
            "REAL": sys.executable,
            "TORCH": CPU,
            "PIP_USER": "1",
            "PYTHONPATH": "/elsewhere",
        }

    def add_program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(self.project / "tools/setup_env.sh"), *arguments],
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            start_new_session=True,
        )

    def run(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        process = self.start(*arguments, **variables)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    def calls(self, text: str) -> list[str]:
        """The calls since the last time."""
        calls = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return [line for line in calls if text in line]

    def start_and_wait_at(self, call: str) -> subprocess.Popen[str]:
        process = self.start(HANG_AT=call)
        wait_for_text(self.hanging)
        return process

    def is_complete(self) -> bool:
        self.calls("")
        status, output, _ = self.run()
        return status == 0 and output.startswith("The environment is complete")


# What a set-up leaves in the cache.
CACHED = ["lock", "mmcv-build.log", "wheels"]


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


@pytest.fixture
def complete(setup: Setup) -> Setup:
    """A set-up that has run, with a file in the environment to know it by."""
    assert setup.run()[0] == 0
    (setup.venv / "known").touch()
    return setup


def test_makes_an_environment_and_then_has_nothing_to_do(setup: Setup) -> None:
    status, output, errors = setup.run()
    assert (status, errors) == (0, "")
    assert "[5/5]" in output
    assert sorted(path.name for path in setup.cache.iterdir()) == CACHED
    assert "torch==2.13.0" in setup.calls("pip install torch")[0]

    assert setup.is_complete()
    assert setup.calls("") == ["-V FORCE_CUDA="]


def test_compiles_mmcv_once_for_all_environments_and_again_for_another_torch(
    complete: Setup, tmp_path: Path
) -> None:
    def compilations(name: str, torch: str) -> int:
        assert complete.run(MMDYSAMPLE_VENV=str(tmp_path / name), TORCH=torch)[0] == 0
        calls = complete.calls("mmcv")
        (installed,) = (call for call in calls if "pip install --no-deps /" in call)
        assert ("torch2.13.0+cpu" in installed) == (torch == CPU)
        (for_one_test,) = (call for call in calls if "--target" in call)
        assert "mmcv==1.7.2_without-operators/mmcv-fake.whl" in for_one_test
        return sum("pip wheel" in call for call in calls)

    assert len(complete.calls("pip wheel")) == 2
    assert compilations("same", CPU) == 0
    assert compilations("other", torch("2.14.0+cpu", None, None)) == 1


@pytest.mark.parametrize("change", ["requirements/lock.txt", "PYTHON", "moved", "python-gone"])
def test_what_is_out_of_date_is_made_again(complete: Setup, change: str) -> None:
    variables = {}
    if change == "PYTHON":
        complete.add_program("other", FAKE_PYTHON.replace("3.11.0", "3.12.0"))
        variables = {"PYTHON": "other"}
    elif change == "moved":
        complete.project = complete.project.rename(complete.project.with_name("renamed"))
        complete.venv = complete.project / ".venv"
    elif change == "python-gone":
        (complete.venv / "bin" / "python").unlink()
    else:
        with (complete.project / change).open("a") as file:
            file.write("# changed\n")
    status, output, errors = complete.run(**variables)
    assert status == 0, errors
    assert "[1/5]" in output
    assert not (complete.venv / "known").exists()
    assert complete.is_complete()


@pytest.mark.parametrize("change", ["setup.py", "mmdysample/version.py", "another clone"])
def test_only_mmdysample_is_installed_again_where_only_it_has_changed(
    complete: Setup, change: str
) -> None:
    if change == "another clone":
        complete.environment["MMDYSAMPLE_VENV"] = str(complete.venv)
        other = complete.project.with_name("other")
        shutil.copytree(complete.project, other, ignore=shutil.ignore_patterns(".venv"))
        complete.project = other
    else:
        with (complete.project / change).open("a") as file:
            file.write("# changed\n")
    complete.calls("")
    assert complete.run(FAIL_AT="--no-index")[0] == 1  # The environment stays all the same.
    assert complete.run()[0] == 0
    assert (complete.venv / "known").exists()
    failed, installed = complete.calls("pip ")
    assert failed == installed and f"--no-index -e {complete.project} " in installed
    assert complete.is_complete()


def test_an_interrupted_installation_of_mmdysample_is_not_taken_for_complete(
    complete: Setup,
) -> None:
    version = complete.project / "mmdysample/version.py"
    before = version.read_text()
    version.write_text(before + "# changed\n")
    assert complete.run(FAIL_AT="--no-index")[0] == 1
    version.write_text(before)
    assert "[4/5]" in complete.run()[1]


def test_a_change_of_the_script_leaves_the_environment_alone(complete: Setup) -> None:
    with (complete.project / "tools/setup_env.sh").open("a") as file:
        file.write("# changed\n")
    assert complete.is_complete()


def test_a_user_s_files_in_the_directory_of_the_cache_stay(setup: Setup) -> None:
    theirs = [setup.cache / "tmp" / "a", setup.cache / "lock", setup.cache / "wheels" / "a.whl"]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("theirs")
    assert setup.run()[0] == 0
    assert [path.read_text() for path in theirs] == ["theirs"] * 3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("-m venv", "Stopped at: virtual environment"),
        ("pip install --retries", "error: pip==25.3 could not be installed: see above"),
        ("--only-binary", "Stopped at: PyTorch"),
        ("pip wheel", "error: compiling mmcv failed: ERROR: it broke"),
        ("import mmcv.ops", "error: the wheel in "),
        ("--target", "Stopped at: mmcv==2.1.0 with operators for cpu"),
        ("--no-index", "Stopped at: mmdysample itself"),
        ("import mmengine", "Stopped at: seeing that all of it imports"),
    ],
)
def test_a_failure_is_named_and_the_next_run_mends_it(setup: Setup, call: str, words: str) -> None:
    status, _, errors = setup.run(FAIL_AT=call)
    assert status == 1
    assert words in errors
    assert "The same command starts the set-up again" in errors.splitlines()[-1]
    assert {path.name for path in setup.cache.iterdir()} <= set(CACHED)
    status, output, errors = setup.run()
    assert status == 0, errors
    assert "[1/5]" in output
    assert setup.is_complete()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_next_run_mends_one_that_was_stopped(setup: Setup, number: signal.Signals) -> None:
    process = setup.start_and_wait_at("pip wheel")
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0
    if number != signal.SIGKILL:
        assert "Stopped at: mmcv==" in errors
    assert setup.run()[0] == 0
    assert {path.name for path in setup.cache.iterdir()} <= set(CACHED)
    assert setup.is_complete()


def test_a_second_set_up_waits_until_the_first_and_its_children_have_ended(
    setup: Setup, tmp_path: Path
) -> None:
    first = setup.start_and_wait_at("pip wheel")
    first.kill()  # only the script: what it has started works on
    setup.calls("")
    waiting = tmp_path / "waiting"
    flock = f'[ "$1" != 9 ] || echo >"{waiting}" yes\nexec {shutil.which("flock")} "$@"\n'
    setup.add_program("flock", f"#!/bin/sh\n{flock}")
    second = setup.start()
    assert "Another set-up is running" in second.stdout.readline()
    wait_for_text(waiting)
    assert setup.calls("") == []
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=20)
    output, errors = second.communicate(timeout=20)
    assert second.returncode == 0, errors
    assert "[5/5]" in output


def test_of_two_at_once_one_has_nothing_left_to_do(setup: Setup) -> None:
    processes = [setup.start(), setup.start()]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(setup.calls("-m venv ")) == 1
    assert sum("The environment is complete" in output for output in outputs) == 1


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_leaves_alone_what_it_did_not_make(setup: Setup, tmp_path: Path, kind: str) -> None:
    theirs = setup.venv if kind != "link" else tmp_path / "shared"
    if kind == "file":
        theirs.write_text("all of it")
    else:
        theirs.mkdir()
        (theirs / "pyvenv.cfg").write_text("all of it")
    if kind == "link":
        setup.venv.symlink_to(theirs)
        (theirs / "mmdysample-setup.txt").write_text("of another project")
    before = sorted(theirs.rglob("*"))
    status, _, errors = setup.run()
    assert status == 2
    reason = "is a symbolic link" if kind == "link" else "was not made by this script"
    assert errors.startswith(f"error: {setup.venv} {reason}")
    assert "MMDYSAMPLE_VENV" in errors and errors.count("\n") == 1
    assert sorted(theirs.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mmdysample-setup.txt", "not complete\n"),
        ("mmdysample-setup.txt", "0f343b0931126a20f133d67c2b018a3b  -\n"),
        ("mmdysample-setup.txt", "environment cfbbe128a4b5\nops cpu\nproject e3d4d4528fd5\n"),
        ("mmdysample-setup.incomplete", ""),
    ],
    ids=["stopped", "earlier", "before-that", "before-that-stopped"],
)
def test_what_an_earlier_version_made_is_made_again(setup: Setup, name: str, text: str) -> None:
    setup.venv.mkdir()
    (setup.venv / "pyvenv.cfg").write_text("of the earlier version")
    (setup.venv / name).write_text(text)
    status, output, errors = setup.run()
    assert status == 0, errors
    assert "[1/5]" in output
    assert sorted(path.name for path in setup.venv.iterdir()) == ["bin", "mmdysample-setup.txt"]
    assert setup.is_complete()


BROKEN_PYTHONS = {
    "python3.9": "import sys, sysconfig; sys.version_info = (3, 9, 1)",
    "python3.13": "import sys, sysconfig; sys.version_info = (3, 13, 0)",
    "bare": "import sys; sys.modules['ensurepip'] = None",
    "headless": "import sysconfig; sysconfig.get_path = lambda name: '/nowhere'",
    "shim": "raise SystemExit(127)",
    "absent": None,
}


@pytest.mark.parametrize("name", BROKEN_PYTHONS)
def test_a_python_that_will_not_do_is_refused(setup: Setup, name: str) -> None:
    lines = BROKEN_PYTHONS[name]
    if lines is not None:
        setup.add_program(name, f'#!/bin/bash\nexec {sys.executable} -I -c "{lines}\n$3"\n')
    status, _, errors = setup.run(PYTHON=name)
    assert status == 1
    assert errors.startswith("error: no Python 3.10, 3.11 or 3.12")
    assert f"as {name}:" in errors and errors.count("\n") == 1
    assert not setup.venv.exists()


def test_a_python_that_does_not_run_is_passed_over(setup: Setup) -> None:
    setup.add_program("python3.12", FAKE_PYTHON)
    setup.add_program("python3.11", "#!/bin/sh\nexit 127\n")
    assert str(setup.bin / "python3.12") in setup.run()[1]


def test_a_missing_compiler_is_found_before_anything_is_made(setup: Setup) -> None:
    status, _, errors = setup.run(CXX="no-such-compiler")
    assert status == 1
    assert errors.startswith("error: no C++ compiler (no-such-compiler) was found")
    assert not setup.venv.exists()


def test_the_compiler_is_not_needed_where_a_wheel_is_kept(complete: Setup, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    assert complete.run(MMDYSAMPLE_VENV=other, CXX="no-such-compiler")[0] == 0


def test_a_full_disk_is_found_before_anything_is_made(setup: Setup) -> None:
    setup.add_program("df", "#!/bin/sh\necho header\necho / 9000 8000 1000 89% /\n")
    status, _, errors = setup.run()
    assert status == 1
    assert errors.startswith("error: the disk is too full") and "1000 are free" in errors
    assert setup.calls("venv ") == []


def test_the_space_of_an_environment_that_is_emptied_counts_as_free(setup: Setup) -> None:
    setup.add_program("df", "#!/bin/sh\necho header\necho / 9000 8000 1000 89% /\n")
    setup.add_program("du", '#!/bin/sh\nprintf "2000\\t%s\\n" "$2"\n')
    assert setup.run()[0] == 0
    setup.add_program("du", '#!/bin/sh\nprintf "1999\\t%s\\n" "$2"\n')
    status, _, errors = setup.run(MMDYSAMPLE_VENV=str(setup.venv) + "-other")
    assert status == 1 and "emptying it gives 1999" in errors


def test_a_wrong_argument_is_refused(setup: Setup) -> None:
    status, _, errors = setup.run("--recreate")
    assert (status, errors) == (2, "error: unknown argument --recreate; accepted is --help.\n")


GPU = torch("2.13.0+cu130", "13.0", (9, 0))


@pytest.mark.parametrize(
    ("torch", "variables", "operators"),
    [
        (GPU, {}, "cuda-9.0"),
        (GPU, {"TORCH_CUDA_ARCH_LIST": "8.0;9.0+PTX"}, "cuda-8.0-9.0-PTX"),
        (torch("2.13.0+cu130", "13.0", None), {"TORCH_CUDA_ARCH_LIST": "9.0"}, "cuda-9.0"),
        (torch("2.13.0+cu130", "13.0", None), {}, "cpu"),
        (torch("2.13.0+cu126", "12.6", (9, 0)), {}, "cpu"),
        (torch("2.13.0+cu130", "1.3", (9, 0)), {}, "cpu"),
        (CPU, {"TORCH_CUDA_ARCH_LIST": "9.0"}, "cpu"),
    ],
    ids=["gpu", "named", "no-gpu-named", "no-gpu", "other-nvcc", "digits", "cpu-torch"],
)
def test_operators_are_for_cuda_where_they_can_be_compiled(
    setup: Setup, torch: str, variables: dict[str, str], operators: str
) -> None:
    nvcc = "#!/bin/sh\necho Cuda compilation tools, release 13.0, V13.0.88\n"
    setup.add_program("nvcc", nvcc)
    status, output, errors = setup.run(TORCH=torch, **variables)
    assert status == 0, errors
    assert f"with operators for {operators};" in output
    (kept,) = setup.cache.glob("wheels/mmcv==2.1.0_*/mmcv-fake.whl")
    assert kept.parent.name.endswith(f"_{operators}")
    (compilation,) = (call for call in setup.calls("pip wheel") if "mmcv==2.1.0" in call)
    assert compilation.endswith(f"FORCE_CUDA={int(operators != 'cpu')}")


@pytest.mark.slow
def test_no_network_with_the_real_python_and_pip(setup: Setup, tmp_path: Path) -> None:
    activated = tmp_path / "activated"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", activated], check=True)
    status, output, errors = setup.run(
        PYTHON=str(activated / "bin" / "python"),
        PIP_CONFIG_FILE="/dev/null",
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
    )
    assert status == 1
    assert "could not be installed: see above, and check the network" in errors
    # The interpreter that made the activated environment, which may be the one that is made anew.
    assert "[1/5]" in output and str(activated) not in output
