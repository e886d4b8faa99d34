"""train.py and test.py in two processes on the CPU, and dist_train.sh and dist_test.sh."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmdysample.engine.checkpoint import load_checkpoint_file
from tests.engine.accidents import accident
from tests.engine.toy import write_config
from tests.engine.zygote import LIMIT, ROOT, TEST, TRAIN, Result

# Statistics of a batch and what a model draws differ between one process and two by nature; the
# data's augmentation does not.
COMPARABLE = """
model["decode_head"].update(norm_cfg=dict(type="GN", num_groups=4), dropout_ratio=0)
model["backbone"]["drop_path_rate"] = 0
optim_wrapper["optimizer"] = dict(type="SGD", lr=0.05, momentum=0.9)
train_dataloader.update(sampler=dict(type="DefaultSampler", shuffle=True), drop_last=True)
train_cfg = dict(type="IterBasedTrainLoop", max_iters=4, val_begin=100)
default_hooks["checkpoint"]["interval"] = 4
randomness = dict(seed=5)
custom_imports["imports"].append("threads_at_exit")
"""
# The system lists a thread for a moment after it has ended.
THREADS_AT_EXIT = """
import atexit, contextlib, pathlib, time

@atexit.register
def show():
    for _ in range(500):
        names = []
        for path in pathlib.Path("/proc/self/task").glob("*/comm"):
            with contextlib.suppress(OSError):
                names.append(path.read_text().strip())
        if not any("gloo" in name for name in names):
            break
        time.sleep(0.01)
    print("threads:", *names, flush=True)
"""


def call(script: str, *arguments: object, cwd: Path, **variables: str):
    # Without a GPU, also where there is one: this is about processes on the CPU.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable, **variables}
    return subprocess.run(
        ["bash", ROOT / "tools" / script, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def run(zygote, processes: int, *arguments: object, cwd: Path) -> list[Result]:
    """Call a tool in one process, or in several as torchrun starts them."""
    environment = dict(CUDA_VISIBLE_DEVICES="", PYTHONPATH=str(cwd))
    if processes == 1:
        return [zygote.run(*arguments, cwd=cwd, env=environment)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment |= dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]))
    ranks = [dict(RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(processes)]
    started = [
        zygote.start(
            *(*arguments, "--launcher", "pytorch"),
            cwd=cwd,
            env={**environment, **rank, "WORLD_SIZE": str(processes)},
        )
        for rank in ranks
    ]
    return [zygote.wait(pid) for pid in started]


def run_well(*arguments, **settings) -> str:
    results = run(*arguments, **settings)
    for result in results:
        assert result.status == 0, result.stderr
    return "".join(result.stdout for result in results)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, toy_data, zygote):
    """A directory with ``config.py`` and the work dir of two processes with two samples each."""
    directory = tmp_path_factory.mktemp("dist")
    write_config("segmentor", toy_data, directory / "config.py", COMPARABLE)
    (directory / "threads_at_exit.py").write_text(THREADS_AT_EXIT)
    run_well(zygote, 2, TRAIN, "config.py", "--work-dir", "two", cwd=directory)
    return directory


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint_file(path)["state_dict"]


def test_equals_one_process(two_processes, zygote):
    options = ("--work-dir", "one", "--cfg-options", "train_dataloader.batch_size=4")
    run_well(zygote, 1, TRAIN, "config.py", *options, cwd=two_processes)
    one, two = (weights(two_processes / name / "iter_4.pth") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
def test_killed_and_resumed_equals_unkilled(two_processes, zygote):
    """One of two processes is killed, and ends the other one."""
    lethal = two_processes / "lethal.py"
    # Rank 0, which writes checkpoints, has written that of the second iteration before.
    lethal.write_text((two_processes / "config.py").read_text() + accident(iteration=3, rank=1))
    often = ("--work-dir", "killed", "--cfg-options", "default_hooks.checkpoint.interval=2")
    first, second = run(zygote, 2, TRAIN, lethal, *often, cwd=two_processes)
    assert second.status == -signal.SIGKILL and first.status not in (0, 2)
    assert not (two_processes / "killed" / "iter_4.pth").exists()
    stdout = run_well(zygote, 2, TRAIN, "config.py", *often, "--resume", cwd=two_processes)
    assert stdout.count("--resume: from ") == 1 and "killed/iter_2.pth" in stdout
    one, two = (weights(two_processes / name / "iter_4.pth") for name in ("killed", "two"))
    assert [name for name in two if not torch.equal(one[name], two[name])] == []


def test_log_names_backend_and_processes(two_processes):
    (log,) = (two_processes / "two").glob("*/*.log")
    text = log.read_text()
    assert "GPU number: 2" in text
    assert "'backend': 'gloo'" in text
    assert "SyncBatchNorm layers are converted to BatchNorm" in text


def test_test_equals_one_process(two_processes, zygote):
    checkpoint = two_processes / "two" / "iter_4.pth"
    scores = []
    for processes, name in ((1, "alone"), (2, "scores")):
        out = ("--work-dir", name, "--out", f"labels{processes}")
        run_well(zygote, processes, TEST, "config.py", checkpoint, *out, cwd=two_processes)
        (metrics,) = (two_processes / name).glob("*/*.json")
        scores.append({k: v for k, v in json.loads(metrics.read_text()).items() if "time" not in k})
    assert scores[0] == scores[1] and "aAcc" in scores[0]
    assert len(list((two_processes / "labels2").iterdir())) == 6
    (record,) = (two_processes / "two").glob("*/run.json")
    assert json.loads(record.read_text())["processes"] == 2


def test_detector(toy_data, zygote, tmp_path):
    """Trained by two processes; what two find in the images is what one finds."""
    # On a GPU it would make SyncBatchNorm of the backbone's BatchNorm.
    extra = 'sync_bn = "torch"\nrandomness = dict(seed=5)\n'
    write_config("detector", toy_data, tmp_path / "config.py", extra)
    train = ("--work-dir", "w", "--cfg-options", "train_cfg.max_epochs=1")
    run_well(zygote, 2, TRAIN, "config.py", *train, cwd=tmp_path)
    # 6 images, 3 for each process, in batches of 2.
    assert load_checkpoint_file(tmp_path / "w" / "epoch_1.pth")["meta"]["iter"] == 2

    found = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.pkl"
        everything = ("--out", out, "--cfg-options", "model.test_cfg.rcnn.score_thr=0")
        run_well(
            *(zygote, processes, TEST, "config.py", "w/epoch_1.pth", *everything), cwd=tmp_path
        )
        samples = pickle.loads(out.read_bytes())
        found.append({sample["img_id"]: sample["pred_instances"] for sample in samples})
    one, two = found
    assert sorted(one) == sorted(two) == list(range(6))
    assert sum(len(instances["scores"]) for instances in one.values()) > 0
    for image, instances in one.items():
        for part in ("bboxes", "scores", "labels"):
            torch.testing.assert_close(two[image][part], instances[part], msg=f"{image} {part}")


@pytest.mark.slow
def test_torchrun(two_processes):
    """The script itself; the usual port is taken by somebody, us or another program."""
    with socket.socket() as other:
        with contextlib.suppress(OSError):
            other.bind(("", 29500))
            other.listen()
        arguments = ("config.py", 2, "--work-dir", "script")
        done = call("dist_train.sh", *arguments, cwd=two_processes, PYTHONPATH=str(two_processes))
    assert done.returncode == 0, done.stderr
    # A thread of the process group that lets go of a tensor at the very end aborts the process.
    threads = [line for line in done.stdout.splitlines() if line.startswith("threads: ")]
    assert len(threads) == 2 and not any("gloo" in line for line in threads)
    one, two = (weights(two_processes / name / "iter_4.pth") for name in ("script", "two"))
    assert [name for name in two if not torch.equal(one[name], two[name])] == []


@pytest.mark.slow
def test_users_error_under_torchrun(tmp_path):
    done = call("dist_test.sh", "nowhere.py", "x.pth", 2, cwd=tmp_path)
    assert done.returncode == 1
    # What torchrun says of the processes that have failed comes after it.
    before, _, after = done.stderr.partition("error: config nowhere.py does not exist\n")
    assert "Traceback" not in before and "ChildFailedError" in after


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("dist_train.sh", (), "usage"),
        ("dist_train.sh", ("config.py",), "usage"),
        ("dist_train.sh", ("config.py", "two"), "'two'"),
        ("dist_test.sh", ("config.py", "x.pth"), "usage"),
        ("dist_test.sh", ("config.py", "x.pth", "0"), "'0'"),
    ],
)
def test_wrong_arguments(script, arguments, says, tmp_path):
    done = call(script, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and says in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("script", "tool", "arguments"),
    [
        ("dist_train.sh", TRAIN, ["a config.py"]),
        ("dist_test.sh", TEST, ["a config.py", "a b.pth"]),
    ],
)
def test_several_nodes_are_handed_to_torchrun(script, tool, arguments, tmp_path):
    """With a stand-in for Python that prints its arguments."""
    nodes = dict(NNODES="2", NODE_RANK="1", MASTER_ADDR="10.0.0.1", PORT="1234")
    assert told(script, tmp_path, *arguments, 4, "--work-dir", "a b", **nodes) == [
        *("-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=4"),
        *("--node-rank=1", "--master-addr=10.0.0.1", "--master-port=1234"),
        *(str(tool), *arguments, "--launcher", "pytorch", "--work-dir", "a b"),
    ]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=127.0.0.1"]),
        (
            dict(PORT="1234"),
            ["--node-rank=0", "--master-addr=127.0.0.1", "--master-port=1234"],
        ),
    ],
)
def test_port_of_one_node(variables, expected, tmp_path):
    assert told("dist_train.sh", tmp_path, "c.py", 1, **variables)[4:7] == expected


def told(script: str, directory: Path, *arguments: object, **variables: str) -> list[str]:
    fake = directory / "python"
    fake.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    done = call(script, *arguments, cwd=directory, **variables, PYTHON=str(fake))
    return done.stdout.splitlines()
