from __future__ import annotations

import socket

import pytest

from mmdysample.engine.launch import free_port, main


def test_free_port_is_the_wanted_one_if_it_is_free():
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    assert free_port(port) == port


def test_free_port_is_another_one_if_it_is_taken():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        found = free_port(port)
    assert found not in (port, 0)
    with socket.socket() as probe:
        probe.bind(("", found))


@pytest.mark.parametrize("status", [0, 2, 130])
def test_status_of_the_processes(status, tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text(f"import sys; sys.exit({status})")
    assert main(["--nproc_per_node=1", "--master_port=auto", str(script)]) == status
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_stays_torchruns(tmp_path):
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    script = tmp_path / "script.py"
    script.write_text("raise KeyError('bug')")
    with pytest.raises(ChildFailedError):
        main(["--nproc_per_node=1", "--master_port=auto", str(script)])
