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

from tests.tools.set_up import ROOT, SetUp

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="tools/setup_env.sh is for Linux: run it there"
)


@pytest.fixture
def setup(tmp_path: Path) -> SetUp:
    return SetUp(tmp_path)


@pytest.fixture
def complete(setup: SetUp) -> SetUp:
    """A set-up that has run, with a file in the environment to know it by."""
    status, _, errors = setup.run()
    assert status == 0, errors
    (setup.venv / "known").touch()
    setup.calls_file.unlink()
    return setup


def is_alive(process_id: int) -> bool:
    stat = Path(f"/proc/{process_id}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def assert_one_sentence(errors: str, *words: str) -> None:
    lines = errors.strip().splitlines()
    sentences = [line for line in lines if line.startswith("error: ")]
    assert len(sentences) == 1, errors
    assert "Traceback" not in errors
    for word in words:
        assert word in sentences[0]


def test_makes_a_complete_environment_and_then_has_nothing_to_do(setup: SetUp) -> None:
    status, output, errors = setup.run()
    assert (status, errors) == (0, "")
    assert "[7/7]" in output
    assert (setup.venv / "opt" / "mmcv1" / "torchvision.py").exists()
    assert setup.leftovers() == []
    assert list(setup.cache.glob("logs/*")) == []

    setup.calls_file.unlink()
    started = time.monotonic()
    status, output, errors = setup.run()
    assert (status, errors) == (0, "")
    assert "complete" in output
    assert time.monotonic() - started < 5
    assert setup.calls("pip") == setup.calls("venv ") == []


def test_compiles_mmcv_once_for_all_environments(setup: SetUp, tmp_path: Path) -> None:
    assert setup.run()[0] == 0
    assert setup.run(MMDYSAMPLE_VENV=str(tmp_path / "other"))[0] == 0
    assert len(setup.calls("pip wheel mmcv==2.1.0")) == 1
    assert len(setup.calls("pip wheel mmcv==1.7.2")) == 1
    assert len(setup.calls("-m venv ")) == 2


def test_compiles_mmcv_again_when_the_kept_wheel_does_not_import(
    complete: SetUp, tmp_path: Path
) -> None:
    (wheel,) = complete.cache.glob("wheels/mmcv==2.1.0*/*.whl")
    wheel.write_text("broken")
    # Importing fails as long as the broken wheel is there.
    fake = complete.bin / "python3.11"
    condition = (
        f"[[ $* == *'import mmcv.ops' ]] && grep -q broken '{wheel}' 2>/dev/null && exit 1\n"
    )
    fake.write_text(fake.read_text().replace("case $call in\n", condition + "case $call in\n", 1))
    status, output, errors = complete.run(MMDYSAMPLE_VENV=str(tmp_path / "other"))
    assert status == 0, errors
    assert "does not work" in output
    assert wheel.read_text() == "wheel\n"


def test_remakes_the_environment_when_the_requirements_change(complete: SetUp) -> None:
    with (complete.project / "requirements" / "lock.txt").open("a") as lock:
        lock.write("one-more==1.0\n")
    status, output, errors = complete.run()
    assert status == 0, errors
    assert "requirements have changed" in output
    assert not (complete.venv / "known").exists()
    assert complete.leftovers() == []


def test_an_activated_environment_is_made_anew_by_the_python_that_made_it(tmp_path: Path) -> None:
    """Its own interpreter is gone by the time it is made."""
    environment = tmp_path / "env"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=60
    )
    machine = ROOT / "tools/setup/machine.sh"
    found = subprocess.run(
        ["bash", "-c", f'source "{machine}"; probe_python python3'],
        env=os.environ | {"PATH": f"{environment / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 0, found.stdout
    assert Path(found.stdout).exists()
    assert environment not in Path(found.stdout).parents


def test_installs_only_the_project_when_its_metadata_changes(complete: SetUp) -> None:
    (complete.project / "mmdysample" / "version.py").write_text('__version__ = "9.9"\n')
    status, _, errors = complete.run()
    assert status == 0, errors
    assert (complete.venv / "known").exists()
    (install,) = complete.calls("pip")
    assert f"-e {complete.project}" in install
    assert complete.run()[1].startswith("The environment is complete")


def test_another_python_asked_for_remakes_the_environment(complete: SetUp) -> None:
    other = (complete.bin / "python3.11").read_text().replace(":-3.11}", ":-3.12}")
    complete.add_program("python3.12", other)
    status, output, errors = complete.run(PYTHON="python3.12")
    assert status == 0, errors
    assert "it has Python 3.11" in output
    # Once made, it is kept also when nobody asks for that Python again.
    assert complete.run()[1].startswith("The environment is complete")


@pytest.mark.parametrize(
    ("step", "output", "words"),
    [
        ("-m venv", "OSError: [Errno 28] No space left on device", ["disk is full"]),
        (
            "pip install -c",
            "ERROR: Could not install packages: OSError: [Errno 28] No space left on device",
            ["disk is full", "MMDYSAMPLE_VENV"],
        ),
        (
            "torch numpy",
            "WARNING: Retrying after connection broken by 'NewConnectionError("
            '"Failed to establish a new connection: [Errno -3] Temporary failure in name '
            "resolution\")': /simple/torch/\nERROR: No matching distribution found for torch",
            ["cannot be reached", "installing PyTorch"],
        ),
        (
            "--only-binary",
            "ERROR: No matching distribution found for shapely==2.1.2",
            ["has no shapely==2.1.2", "platform"],
        ),
        ("pip wheel mmcv==2.1.0", "a.cpp:1:10: fatal error: Python.h: No such file", ["headers"]),
        ("pip wheel mmcv==2.1.0", "c++: fatal error: Killed signal terminated", ["MAX_JOBS=1"]),
        ("pip wheel mmcv==2.1.0", "nms.cpp:7:1: error: no such thing", ["nms.cpp:7:1"]),
        ("pip wheel mmcv==1.7.2", "ERROR: it broke", ["mmcv 1.x", "it broke"]),
        ("-e /", "error: it broke", ["mmdysample", "it broke"]),
        ("import mmengine", "ImportError: no cv2", ["checking", "no cv2"]),
    ],
)
def test_a_failure_is_one_sentence_and_leaves_nothing_half_made(
    setup: SetUp, step: str, output: str, words: list[str]
) -> None:
    status, _, errors = setup.run(FAIL_AT=step, FAIL_WITH=output)
    assert status == 1
    assert_one_sentence(errors, *words)
    _, _, log = errors.partition("The full log is ")
    assert output.splitlines()[0] in Path(log.splitlines()[0]).read_text()
    assert setup.leftovers() == []
    assert not setup.venv.exists()


def test_after_a_failure_the_earlier_environment_is_as_it_was(complete: SetUp) -> None:
    status, _, errors = complete.run("--recreate", FAIL_AT="torch numpy", FAIL_WITH="error: broken")
    assert status == 1
    assert_one_sentence(errors, "broken")
    assert "earlier environment is kept" in errors
    assert (complete.venv / "known").exists()
    assert complete.leftovers() == []
    assert complete.run()[1].startswith("The environment is complete")


def test_a_conflict_of_versions_is_named_but_not_the_headless_opencv(setup: SetUp) -> None:
    conflict = "mmdet 3.3.0 has requirement mmcv<2.2.0, but you have mmcv 2.2.0."
    headless = "mmengine 0.10.7 requires opencv-python, which is not installed."
    status, _, errors = setup.run(FAIL_AT="pip check", FAIL_WITH=f"{headless}\n{conflict}")
    assert status == 1
    assert_one_sentence(errors, conflict)
    assert setup.run(FAIL_AT="pip check", FAIL_WITH=headless)[0] == 0


@pytest.mark.parametrize(
    ("number", "status", "earlier"),
    [
        (signal.SIGINT, 130, False),
        (signal.SIGINT, 130, True),
        (signal.SIGTERM, 143, False),
        (signal.SIGHUP, 129, False),
    ],
    ids=["SIGINT", "SIGINT-over-an-earlier", "SIGTERM", "SIGHUP"],
)
def test_a_signal_stops_all_of_it_and_leaves_nothing_half_made(
    setup: SetUp, number: signal.Signals, status: int, earlier: bool
) -> None:
    if earlier:
        assert setup.run()[0] == 0
        (setup.venv / "known").touch()
        shutil.rmtree(setup.cache / "wheels")
    process = setup.start("--recreate", HANG_AT="pip wheel mmcv==2.1.0")
    hanging = setup.wait_until_hanging()
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == status
    assert_one_sentence(errors, "stopped")
    assert not is_alive(hanging)
    assert setup.leftovers() == []
    assert (setup.venv / "known").exists() == setup.venv.exists() == earlier


@pytest.mark.parametrize("earlier", [False, True], ids=["fresh", "over-an-earlier"])
def test_the_run_after_a_killed_one_heals(setup: SetUp, earlier: bool) -> None:
    if earlier:
        assert setup.run()[0] == 0
        (setup.venv / "known").touch()
        shutil.rmtree(setup.cache / "wheels")
    process = setup.start("--recreate", HANG_AT="pip wheel mmcv==2.1.0")
    hanging = setup.wait_until_hanging()
    process.kill()
    process.communicate(timeout=20)
    os.killpg(hanging, signal.SIGKILL)
    status, output, errors = setup.run()
    assert status == 0, errors
    assert setup.leftovers() == []
    if earlier:
        assert output.startswith("The environment is complete")
        assert (setup.venv / "known").exists()
    else:
        assert "[7/7]" in output


def test_removes_what_was_being_removed_when_a_set_up_was_killed(complete: SetUp) -> None:
    discarded = complete.project / ".venv.setup-discarded"
    discarded.mkdir()
    (discarded / "half").touch()
    assert complete.run()[0] == 0
    assert not discarded.exists()
    assert (complete.venv / "known").exists()


def test_of_two_at_once_the_second_waits_and_has_nothing_left_to_do(setup: SetUp) -> None:
    processes = [setup.start(), setup.start()]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(setup.calls("-m venv ")) == 1
    assert sum("Another set-up is at work" in output for output in outputs) == 1
    assert sum("The environment is complete" in output for output in outputs) == 1


@pytest.mark.parametrize("option", [(), ("--recreate",)], ids=["plain", "recreate"])
def test_refuses_a_folder_that_is_no_environment(setup: SetUp, option: tuple[str, ...]) -> None:
    setup.venv.mkdir()
    (setup.venv / "thesis.tex").touch()
    status, _, errors = setup.run(*option)
    assert status == 2
    assert_one_sentence(errors, str(setup.venv), "not a virtual environment", "MMDYSAMPLE_VENV")
    assert [path.name for path in setup.venv.iterdir()] == ["thesis.tex"]


def test_replaces_somebody_elses_environment_only_by_request(setup: SetUp) -> None:
    setup.venv.mkdir()
    (setup.venv / "pyvenv.cfg").touch()
    status, _, errors = setup.run()
    assert status == 2
    assert_one_sentence(errors, str(setup.venv), "--recreate")
    assert [path.name for path in setup.venv.iterdir()] == ["pyvenv.cfg"]
    assert setup.run("--recreate")[0] == 0
    assert setup.run()[1].startswith("The environment is complete")


def test_does_not_mix_the_families_of_openmmlab_packages(complete: SetUp) -> None:
    other = complete.venv / "lib/python3.11/site-packages/onedl_mmcv-2.3.6.dist-info"
    other.mkdir(parents=True)
    status, _, errors = complete.run("--recreate")
    assert status == 2
    assert_one_sentence(errors, "onedl", "mixed")
    assert (complete.venv / "known").exists()


def test_disk_too_full_is_found_before_anything_is_made(setup: SetUp) -> None:
    status, _, errors = setup.run(MMDYSAMPLE_NEEDED_MB="999999999")
    assert status == 1
    assert_one_sentence(errors, "999999999 MB", "free")
    assert not setup.venv.exists()


@pytest.mark.parametrize(
    ("compiler", "words"),
    [("no-such-compiler", ["no C++ compiler", "build-essential"]), ("false", ["cannot compile"])],
)
def test_compiler_is_tried_before_anything_is_made(
    setup: SetUp, compiler: str, words: list[str]
) -> None:
    status, _, errors = setup.run(CXX=compiler)
    assert status == 1
    assert_one_sentence(errors, compiler, *words)
    assert not setup.venv.exists()


def test_compiler_is_not_needed_when_the_wheel_is_there(setup: SetUp, tmp_path: Path) -> None:
    assert setup.run()[0] == 0
    other = str(tmp_path / "other")
    assert setup.run(MMDYSAMPLE_VENV=other, CXX="no-such-compiler")[0] == 0


def test_missing_headers_of_python_are_named(setup: SetUp, tmp_path: Path) -> None:
    (tmp_path / "include" / "Python.h").unlink()
    status, _, errors = setup.run()
    assert status == 1
    assert_one_sentence(errors, "Python.h", "python3-dev")
    assert not setup.venv.exists()


def pretend_python(before: str) -> str:
    """A Python that runs code given with ``-c`` after some other code."""
    return f'#!/usr/bin/env bash\n[[ $2 == -c ]] && exec {sys.executable} -I -c "{before}\n$3"\n'


BROKEN_PYTHONS = {
    "python3.9": (pretend_python("import sys; sys.version_info = (3, 9, 1)"), "is Python 3.9"),
    "python3.14": (pretend_python("import sys; sys.version_info = (3, 14, 0)"), "is Python 3.14"),
    "bare": (pretend_python("import sys; sys.modules['ensurepip'] = None"), "python3-venv"),
    "shim": ("#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n", "does not run"),
    "absent": ("", "was not found"),
}


@pytest.mark.parametrize("name", BROKEN_PYTHONS)
def test_a_python_that_will_not_do_is_refused(setup: SetUp, name: str) -> None:
    text, reason = BROKEN_PYTHONS[name]
    if text:
        setup.add_program(name, text)
    status, _, errors = setup.run(PYTHON=name)
    assert status == 2
    assert_one_sentence(errors, f"PYTHON={name}", reason, "3.10, 3.11 or 3.12")
    assert not setup.venv.exists()


def test_no_python_at_all_says_what_was_tried(setup: SetUp) -> None:
    for name in ("python3.11", "python3.12", "python3.10", "python3"):
        setup.add_program(name, BROKEN_PYTHONS["shim"][0])
    status, _, errors = setup.run()
    assert status == 1
    assert_one_sentence(errors, "python3.10 does not run", "PYTHON=/path/to/python")
    assert not setup.venv.exists()


def test_passes_over_a_python_that_does_not_run(setup: SetUp) -> None:
    (setup.bin / "python3.11").rename(setup.bin / "python3.12")
    setup.add_program("python3.11", BROKEN_PYTHONS["shim"][0])
    status, output, errors = setup.run()
    assert status == 0, errors
    assert str(setup.bin / "python3.12") in output


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (["--force"], {}, ["--force", "--recreate"]),
        ([], {"MMDYSAMPLE_OPS": "gpu"}, ["MMDYSAMPLE_OPS=gpu", "cuda"]),
        ([], {"MMDYSAMPLE_NEEDED_MB": "much"}, ["MMDYSAMPLE_NEEDED_MB=much"]),
        ([], {"MAX_JOBS": "0"}, ["MAX_JOBS=0"]),
    ],
    ids=["option", "ops", "needed", "jobs"],
)
def test_wrong_arguments_are_refused(
    setup: SetUp, arguments: list[str], variables: dict[str, str], words: list[str]
) -> None:
    status, _, errors = setup.run(*arguments, **variables)
    assert status == 2
    assert_one_sentence(errors, *words)
    assert setup.calls() == []


@pytest.fixture
def cuda(setup: SetUp, tmp_path: Path) -> dict[str, str]:
    """Variables for a CUDA build of torch, its toolkit and a GPU to build for."""
    home = tmp_path / "cuda"
    (home / "bin").mkdir(parents=True)
    (home / "include").mkdir()
    for header in ("cuda_runtime.h", "cusparse.h"):
        (home / "include" / header).touch()
    nvcc = home / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\necho Cuda compilation tools, release 13.0, V13.0.88\n")
    nvcc.chmod(0o755)
    setup.add_program("nvidia-smi", "#!/bin/sh\nexit 1\n")
    return {
        "FAKE_TORCH": "2.13.0+cu130 13.0",
        "CUDA_HOME": str(home),
        "TORCH_CUDA_ARCH_LIST": "9.0",
    }


def test_builds_cuda_operators_where_that_is_possible(
    setup: SetUp, cuda: dict[str, str], tmp_path: Path
) -> None:
    status, output, errors = setup.run(**cuda)
    assert status == 0, errors
    assert "operators for cuda 9.0" in output
    (compilation,) = setup.calls("pip wheel mmcv==2.1.0")
    assert compilation.endswith("FORCE_CUDA=1")
    # The CPU's wheel is another one.
    assert setup.run(MMDYSAMPLE_VENV=str(tmp_path / "other"), MMDYSAMPLE_OPS="cpu", **cuda)[0] == 0
    assert len(setup.calls("pip wheel mmcv==2.1.0")) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"FAKE_TORCH": "2.13.0+cu990 99.0"}, "no CUDA 99 toolkit with nvcc and headers"),
        ({"FAKE_TORCH": "2.13.0+cpu None"}, "a CPU build"),
        ({"TORCH_CUDA_ARCH_LIST": ""}, "no GPU is visible"),
        ({"MMDYSAMPLE_OPS": "cpu"}, "MMDYSAMPLE_OPS=cpu"),
    ],
    ids=["other-toolkit", "cpu-torch", "no-gpu", "as-asked"],
)
def test_builds_cpu_operators_elsewhere_and_says_why(
    setup: SetUp, cuda: dict[str, str], change: dict[str, str], reason: str
) -> None:
    status, output, errors = setup.run(**(cuda | change))
    assert status == 0, errors
    assert "operators for cpu" in output
    assert reason in output
    (compilation,) = setup.calls("pip wheel mmcv==2.1.0")
    assert compilation.endswith("FORCE_CUDA=0")
    if "MMDYSAMPLE_OPS" not in change:
        shutil.rmtree(setup.venv)
        status, _, errors = setup.run(**(cuda | change), MMDYSAMPLE_OPS="cuda")
        assert status == 2
        assert_one_sentence(errors, "MMDYSAMPLE_OPS=cuda", reason)


def test_falls_back_to_cpu_operators_once(setup: SetUp, cuda: dict[str, str]) -> None:
    failing = {"FAIL_AT": "FORCE_CUDA=1", "FAIL_WITH": "nms.cu: error: unknown architecture"}
    status, output, errors = setup.run(**cuda, **failing)
    assert status == 0, errors
    assert "could not be compiled" in output
    (log,) = setup.cache.glob("logs/*")
    assert str(log) in output
    assert "unknown architecture" in log.read_text()
    # The next run does not try again.
    assert setup.run(**cuda, **failing)[1].startswith("The environment is complete")


def test_cpu_operators_are_replaced_when_a_gpu_appears(setup: SetUp, cuda: dict[str, str]) -> None:
    assert setup.run(**(cuda | {"TORCH_CUDA_ARCH_LIST": ""}))[0] == 0
    status, output, errors = setup.run(**cuda)
    assert status == 0, errors
    assert "operators for the GPU can be built now" in output
    # And kept where the GPU is not visible.
    assert setup.run(**(cuda | {"TORCH_CUDA_ARCH_LIST": ""}))[1].startswith("The environment is")


def test_no_network_with_the_real_pip(setup: SetUp) -> None:
    status, _, errors = setup.run(
        PYTHON=sys.executable,
        PIP_CONFIG_FILE="/dev/null",
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_RETRIES="1",
    )
    assert status == 1
    assert_one_sentence(errors, "package index cannot be reached", "proxy")
    assert not setup.venv.exists()
    assert setup.leftovers() == []
