"""The matting model in training and testing: two processes, killed and resumed, mixed precision."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmdysample.engine.checkpoint import load_checkpoint_file
from tests.engine.accidents import accident
from tests.engine.zygote import ROOT, TEST, TRAIN, shared_zygote
from tests.mmseg.matting.toy import draw_data
from tests.tools.test_dist import run, run_well

LAST = "iter_4.pth"
TINY = f"""
_base_ = "{ROOT}/configs/shapes/a2u-matting_r18_dysample_shapes.py"
custom_imports = dict(imports=["mmdysample.mmseg"], allow_failed_imports=False)
model = dict(
    backbone=dict(base_channels=8), decode_head=dict(base_channels=8, dropout_ratio=0.5)
)
train_cfg = dict(type="IterBasedTrainLoop", max_iters=4, val_interval=100)
default_hooks = dict(checkpoint=dict(interval=2))
train_dataloader = dict(batch_size=2, num_workers=1, dataset=dict(data_root="DATA"))
train_dataloader["dataset"]["pipeline"] = [
    dict(type="LoadForeground"),
    dict(type="MergeForegrounds", prob=0.5),
    dict(type="RandomForegroundAffine", max_rotation=30, min_rotated_side=0),
    dict(type="GenerateTrimap", kernel_size=(1, 9)),
    dict(type="LoadBackground"),
    dict(type="CropAroundUnknown", crop_size=48),
    dict(type="JitterForeground"),
    dict(type="CompositeForeground"),
    dict(type="PackMattingInputs"),
]
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root="DATA"))
test_dataloader = val_dataloader
"""
# Statistics of a batch, and what a model draws, differ between one process and two by nature.
COMPARABLE = """
norm_cfg = dict(type="GN", num_groups=1)
model["backbone"].update(norm_cfg=norm_cfg)
model["decode_head"].update(norm_cfg=norm_cfg, dropout_ratio=0)
optim_wrapper = dict(
    type="OptimWrapper", optimizer=dict(type="SGD", lr=0.05, momentum=0.9, _delete_=True)
)
train_dataloader.update(sampler=dict(type="DefaultSampler", shuffle=True), drop_last=True)
randomness = dict(seed=5)
"""
# Three images: of two processes one is given the first image again.
ODD = """
test_dataloader["dataset"].update(
    data_root="toy",
    data_prefix=dict(
        img_path="images", trimap_path="matting/trimap", alpha_path="matting/alpha"
    ),
)
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A directory with a small Shapes data set and ``tiny.py`` for it."""
    directory = tmp_path_factory.mktemp("matting")
    call = [sys.executable, ROOT / "tools" / "make_shapes.py", directory / "shapes"]
    subprocess.run([*call, "--train", "12", "--val", "2", "--size", "64", "64"], check=True)
    write(directory / "tiny.py")
    return directory


def write(path: Path, extra: str = "") -> Path:
    path.write_text(TINY.replace("DATA", str(path.parent / "shapes")) + extra)
    return path


def state(path: Path) -> dict[str, torch.Tensor]:
    """Weights, statistics and moments of the optimizer."""
    checkpoint = load_checkpoint_file(path)
    moments = {
        f"{number}.{name}": value
        for number, entries in checkpoint["optimizer"]["state"].items()
        for name, value in entries.items()
        if isinstance(value, torch.Tensor)
    }
    assert moments
    return {**checkpoint["state_dict"], **moments}


def different(first: Path, second: Path) -> list[str]:
    one, two = state(first), state(second)
    assert one.keys() == two.keys()
    return [name for name in one if not torch.equal(one[name], two[name])]


@pytest.mark.slow
def test_killed_and_resumed_equals_unkilled(directory):
    """With dropout, statistics of batches, and all that the data set draws."""
    zygote = shared_zygote()
    lethal = write(directory / "lethal.py", accident(iteration=3))
    killed = zygote.run(TRAIN, lethal, "--work-dir", "killed", cwd=directory)
    assert killed.status == -signal.SIGKILL, killed.stderr
    assert not (directory / "killed" / LAST).exists()
    for arguments in (("killed", "--resume"), ("unkilled",)):
        done = zygote.run(TRAIN, "tiny.py", "--work-dir", *arguments, cwd=directory)
        assert done.status == 0, done.stderr
    assert different(directory / "killed" / LAST, directory / "unkilled" / LAST) == []


@pytest.mark.slow
def test_two_processes_equal_one_and_go_on_after_a_kill(directory):
    zygote = shared_zygote()
    plain = write(directory / "comparable.py", COMPARABLE)
    lethal = write(directory / "lethal_two.py", COMPARABLE + accident(iteration=3, rank=1))
    run_well(zygote, 2, TRAIN, plain, "--work-dir", "two", cwd=directory)
    options = ("--work-dir", "one", "--cfg-options", "train_dataloader.batch_size=4")
    run_well(zygote, 1, TRAIN, plain, *options, cwd=directory)
    one, two = (state(directory / name / LAST) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6, msg=name)

    draw_data(directory / "toy", 3)
    odd = write(directory / "odd.py", COMPARABLE + ODD)
    tested = {}
    for processes, name in ((1, "alone"), (2, "together")):
        options = ("--work-dir", f"tested_{name}", "--out", f"alphas_{name}")
        run_well(zygote, processes, TEST, odd, f"one/{LAST}", *options, cwd=directory)
        (log,) = (directory / f"tested_{name}").glob("*/[0-9]*.json")
        scores = json.loads(log.read_text())
        tested[name] = [scores[metric] for metric in ("SAD", "MSE", "Grad", "Conn")]
        alphas = (directory / f"alphas_{name}").iterdir()
        assert sorted(path.name for path in alphas) == ["000.png", "001.png", "002.png"]
    assert min(tested["alone"]) > 0
    assert tested["together"] == pytest.approx(tested["alone"], rel=1e-6)

    first, second = run(zygote, 2, TRAIN, lethal, "--work-dir", "killed_two", cwd=directory)
    assert second.status == -signal.SIGKILL and first.status not in (0, 2)
    assert not (directory / "killed_two" / LAST).exists()
    stdout = run_well(
        *(zygote, 2, TRAIN, plain, "--work-dir", "killed_two", "--resume"), cwd=directory
    )
    assert "killed_two/iter_2.pth" in stdout
    assert different(directory / "killed_two" / LAST, directory / "two" / LAST) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="mixed precision needs a CUDA GPU")
def test_mixed_precision(directory):
    done = shared_zygote().run(TRAIN, "tiny.py", "--work-dir", "amp", "--amp", cwd=directory)
    assert done.status == 0, done.stderr
    assert "loss_scaler" in load_checkpoint_file(directory / "amp" / LAST)["optimizer"]
