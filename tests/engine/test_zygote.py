"""The helper process of the tests ends calls that do not end."""

from __future__ import annotations

import signal

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")


def test_a_call_that_hangs_is_ended_and_says_where(zygote, tmp_path):
    script = tmp_path / "hangs.py"
    script.write_text(
        "import time\n\n\ndef wait_forever():\n    time.sleep(1e6)\n\n\nwait_forever()\n"
    )
    result = zygote.wait(zygote.start(script, cwd=tmp_path), limit=0.5)
    assert result.status == -signal.SIGKILL
    assert "in wait_forever" in result.stderr
