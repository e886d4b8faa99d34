"""tools/dist_train.sh and dist_test.sh as a user calls them, two processes on the CPU."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmdysample.engine.checkpoint import load_checkpoint_file
from tests.engine.toy import write_config
from tests.engine.zygote import ROOT, TEST, TRAIN

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
    )


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, toy_data):
    """A folder with ``config.py`` and the work dir of two processes with two samples each."""
    folder = tmp_path_factory.mktemp("dist")
    config = write_config("segmentor", toy_data, folder / "config.py", COMPARABLE)
    (folder / "threads_at_exit.py").write_text(THREADS_AT_EXIT)
    # The usual port is taken by somebody, us or another program.
    with socket.socket() as other:
        with contextlib.suppress(OSError):
            other.bind(("", 29500))
            other.listen()
        run = call(
            *("dist_train.sh", config, 2, "--work-dir", "two"), cwd=folder, PYTHONPATH=str(folder)
        )
    assert run.returncode == 0, run.stderr
    (folder / "stdout.txt").write_text(run.stdout)
    return folder


def test_no_thread_of_the_process_group_sees_the_end(two_processes):
    """One that then lets go of a tensor aborts the process."""
    lines = (two_processes / "stdout.txt").read_text().splitlines()
    threads = [line for line in lines if line.startswith("threads: ")]
    assert len(threads) == 2
    assert not any("gloo" in line for line in threads)


def test_equals_one_process(two_processes, zygote):
    run = zygote.run(
        *(TRAIN, "config.py", "--work-dir", "one", "--cfg-options"),
        "train_dataloader.batch_size=4",
        cwd=two_processes,
        env=dict(CUDA_VISIBLE_DEVICES="", PYTHONPATH=str(two_processes)),
    )
    assert run.status == 0, run.stderr
    one, two = (
        load_checkpoint_file(two_processes / name / "iter_4.pth")["state_dict"]
        for name in ("one", "two")
    )
    start = load_checkpoint_file(two_processes / "two" / "iter_4.pth")
    assert start["meta"]["iter"] == 4
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6, msg=name)


def test_log_names_backend_and_processes(two_processes):
    (log,) = (two_processes / "two").glob("*/*.log")
    text = log.read_text()
    assert "GPU number: 2" in text
    assert "'backend': 'gloo'" in text
    assert "SyncBatchNorm layers are converted to BatchNorm" in text


def test_dist_test_equals_one_process(two_processes, zygote):
    checkpoint = two_processes / "two" / "iter_4.pth"
    run = call(
        *("dist_test.sh", "config.py", checkpoint, 2, "--work-dir", "scores", "--out", "labels"),
        cwd=two_processes,
        PYTHONPATH=str(two_processes),
    )
    assert run.returncode == 0, run.stderr
    assert len(list((two_processes / "labels").iterdir())) == 6
    (record,) = (two_processes / "two").glob("*/run.json")
    assert json.loads(record.read_text())["processes"] == 2
    alone = zygote.run(
        *(TEST, "config.py", checkpoint, "--work-dir", "alone"),
        cwd=two_processes,
        env=dict(CUDA_VISIBLE_DEVICES="", PYTHONPATH=str(two_processes)),
    )
    assert alone.status == 0, alone.stderr
    scores = [
        line.split("aAcc")[1].split("data_time")[0]
        for line in (*run.stdout.splitlines(), *alone.stdout.splitlines())
        if "aAcc:" in line
    ]
    assert len(scores) == 2
    assert scores[0] == scores[1]


def test_detector(toy_data, zygote, tmp_path):
    """Trained by two processes; what two find in the pictures is what one finds."""
    # On a GPU it would make SyncBatchNorm of the backbone's BatchNorm.
    write_config("detector", toy_data, tmp_path / "config.py", 'sync_bn = "torch"\n')
    train = ("--work-dir", "w", "--cfg-options", "train_cfg.max_epochs=1")
    run = call("dist_train.sh", "config.py", 2, *train, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    # 6 pictures, 3 for each process, in batches of 2.
    assert load_checkpoint_file(tmp_path / "w" / "epoch_1.pth")["meta"]["iter"] == 2

    arguments = ("config.py", "w/epoch_1.pth")
    everything = ("--cfg-options", "model.test_cfg.rcnn.score_thr=0")
    run = call("dist_test.sh", *arguments, 2, "--out", "two.pkl", *everything, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    alone = zygote.run(
        *(TEST, *arguments, "--out", "one.pkl", *everything),
        cwd=tmp_path,
        env=dict(CUDA_VISIBLE_DEVICES=""),
    )
    assert alone.status == 0, alone.stderr
    one, two = (
        {sample["img_id"]: sample["pred_instances"] for sample in pickle.loads(path.read_bytes())}
        for path in (tmp_path / "one.pkl", tmp_path / "two.pkl")
    )
    assert sorted(one) == sorted(two) == list(range(6))
    assert sum(len(found["scores"]) for found in one.values()) > 0
    for image, found in one.items():
        for part in ("bboxes", "scores", "labels"):
            torch.testing.assert_close(two[image][part], found[part], msg=f"{image} {part}")


def test_users_error_is_one_sentence(tmp_path):
    run = call("dist_train.sh", "nowhere.py", 2, cwd=tmp_path)
    assert run.returncode == 1
    # What torchrun says of the processes that have failed comes after it.
    before, _, after = run.stderr.partition("error: config nowhere.py does not exist\n")
    assert "Traceback" not in before and "ChildFailedError" in after
    assert "config nowhere.py" not in after


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
    run = call(script, *arguments, cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.startswith("error: ") and says in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_several_nodes_are_handed_to_torchrun(tmp_path):
    """With a stand-in for Python that prints its arguments."""
    nodes = dict(NNODES="2", NODE_RANK="1", MASTER_ADDR="10.0.0.1", PORT="1234")
    run = call_stand_in(tmp_path, *("a config.py", 4, "--work-dir", "a b"), **nodes)
    assert run.stdout.splitlines() == [
        *("-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=4"),
        *("--node-rank=1", "--master-addr=10.0.0.1", "--master-port=1234"),
        *(str(TRAIN), "a config.py", "--launcher", "pytorch", "--work-dir", "a b"),
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
    run = call_stand_in(tmp_path, "c.py", 1, **variables)
    assert run.stdout.splitlines()[4:7] == expected


def call_stand_in(folder: Path, *arguments: object, **variables: str):
    fake = folder / "python"
    fake.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    return call("dist_train.sh", *arguments, cwd=folder, **variables, PYTHON=str(fake))
