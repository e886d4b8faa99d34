"""A stand-in for Python and a project's set-up files, to try tools/setup_env.sh in seconds."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Answers what the script asks a Python for, and notes every call. FAIL_AT and HANG_AT are patterns
# of the call that prints FAIL_WITH and fails, or that hangs.
FAKE_PYTHON = r"""#!/usr/bin/env bash
printf '%s FORCE_CUDA=%s\n' "$*" "${FORCE_CUDA:-}" >>"$CALLS"
call="$* FORCE_CUDA=${FORCE_CUDA:-}"
if [[ -n ${FAIL_AT:-} && $call == *$FAIL_AT* ]]; then
    printf '%s\n' "$FAIL_WITH"
    exit 1
elif [[ -n ${HANG_AT:-} && $call == *$HANG_AT* ]]; then
    printf '%s\n' $$ >"$HANGING"
    sleep 60
fi
case $call in
*ensurepip*) printf '%s\n' "$0" ;;
'-V '*) echo Python ${FAKE_VERSION:-3.11}.0 ;;
'-m venv '*)
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo "home = /" >"$3/pyvenv.cfg"
    mkdir -p "$3/lib/python3.11/site-packages"
    ;;
*version.py*) echo "${FAKE_TORCH:-2.13.0+cpu None}" ;;
*libc_ver*) echo "mmcv==2.1.0_some-key" ;;
*'get_path("include")'*) printf '%s\n' "$INCLUDE" ;;
*'--only-binary'*)
    for tool in ruff shellcheck; do
        printf '#!/bin/sh\necho "%s $*" >>"$CALLS"\n' "$tool" >"${0%/*}/$tool"
        chmod +x "${0%/*}/$tool"
    done
    ;;
*--target*)
    while [[ $1 != --target ]]; do shift; done
    mkdir -p "$2"
    ;;
*version_info*) echo "${FAKE_VERSION:-3.11}" ;;
'-m pip wheel mmcv=='*)
    version=${4#mmcv==}
    while [[ $1 != -w ]]; do shift; done
    echo "wheel" >"$2/mmcv-$version-fake.whl"
    ;;
esac
"""

FAKE_COMPILER = """#!/bin/sh
exit 0
"""


class SetUp:
    """A project's set-up files in a folder of their own, with a fake Python on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "my project"
        (self.project / "tools").mkdir(parents=True)
        (self.project / "mmdysample").mkdir()
        shutil.copytree(ROOT / "requirements", self.project / "requirements")
        shutil.copytree(ROOT / "tools" / "setup", self.project / "tools" / "setup")
        for name in (
            "tools/setup_env.sh",
            "tools/test.sh",
            "setup.py",
            "pyproject.toml",
            "mmdysample/version.py",
        ):
            shutil.copy(ROOT / name, self.project / name)
        self.venv = self.project / ".venv"
        self.cache = folder / "cache"
        self.calls_file = folder / "calls"
        self.hanging = folder / "hanging"
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.add_program("python3.11", FAKE_PYTHON)
        self.add_program("g++", FAKE_COMPILER)
        include = folder / "include"
        include.mkdir()
        (include / "Python.h").touch()
        self.environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "MMDYSAMPLE_CACHE": str(self.cache),
            "MMDYSAMPLE_NEEDED_MB": "1",
            "CALLS": str(self.calls_file),
            "HANGING": str(self.hanging),
            "INCLUDE": str(include),
        }

    def add_program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def start(
        self, *arguments: str, script: str = "setup_env.sh", **variables: str
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(self.project / "tools" / script), *arguments],
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            # A shell cannot trap what it was started to ignore, as in a background job.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(
        self, *arguments: str, script: str = "setup_env.sh", **variables: str
    ) -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        process = self.start(*arguments, script=script, **variables)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    def calls(self, text: str = "") -> list[str]:
        if not self.calls_file.exists():
            return []
        return [line for line in self.calls_file.read_text().splitlines() if text in line]

    def wait_until_hanging(self) -> int:
        """The process id of the command that hangs."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self.hanging.exists() and (text := self.hanging.read_text().strip()):
                return int(text)
            time.sleep(0.05)
        raise AssertionError("the set-up never came to the command that hangs")

    def leftovers(self) -> list[str]:
        """Temporary folders and incomplete environments."""
        found = [*self.cache.glob("wheels/*/build.*"), *self.project.glob(".venv.*")]
        found += [*self.venv.glob("tmp"), *self.venv.glob("*.incomplete")]
        return [str(path) for path in found]
