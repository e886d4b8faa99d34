"""What CONTRIBUTING.md shows works as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_example_upsampler_passes_the_contract_tests(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (example,) = re.findall(r"^ *```python\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "example_upsampler.py").write_text(textwrap.dedent(example))
    slow = "compile or export or onnx"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "example_upsampler"]
    command += ["-p", "no:cacheprovider", "tests/upsamplers/test_contract.py"]
    command += ["-k", f"MyUpsampler and not ({slow})"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed and int(passed.group(1)) > 20, result.stdout[-500:]
