"""tools/test.py as a user calls it, for both families."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import numpy as np
from PIL import Image

from mmdysample.engine.checkpoint import load_checkpoint_file
from tests.engine.toy import write_config
from tests.engine.zygote import ROOT, TEST, TRAIN


@pytest.fixture(scope="module")
def trained(tmp_path_factory, zygote, toy_data) -> Path:
    """A directory with the toy configs and a checkpoint of each, trained for a moment."""
    directory = tmp_path_factory.mktemp("trained")
    short = dict(
        detector=["train_cfg.max_epochs=1"],
        segmentor=["train_cfg.max_iters=2", "default_hooks.checkpoint.filename_tmpl=epoch_1.pth{}"],
    )
    for family, options in short.items():
        config = write_config(family, toy_data, directory / f"{family}.py")
        run = zygote.run(
            TRAIN, config, "--work-dir", family, "--cfg-options", *options, cwd=directory
        )
        assert run.status == 0, run.stderr
        (checkpoint,) = (directory / family).glob("*.pth*")
        checkpoint.rename(directory / f"{family}.pth")
    return directory


def run_test(zygote, trained: Path, family: str, work_dir: Path, *arguments: object):
    run = zygote.run(
        *(TEST, f"{family}.py", f"{family}.pth", "--work-dir", work_dir, *arguments), cwd=trained
    )
    assert run.status == 0, run.stderr
    (metrics,) = work_dir.glob("*/*.json")
    return json.loads(metrics.read_text())


def test_detector(zygote, trained, tmp_path):
    metrics = run_test(
        *(zygote, trained, "detector", tmp_path / "w", "--out", tmp_path / "found.pkl"),
        *("--show-dir", "drawn"),
    )
    assert 0 <= metrics["coco/bbox_mAP"] <= 1
    found = pickle.loads((tmp_path / "found.pkl").read_bytes())
    assert sorted(sample["img_id"] for sample in found) == list(range(6))
    assert all(len(sample["pred_instances"]["bboxes"]) <= 20 for sample in found)
    assert len(list((tmp_path / "w").glob("*/drawn/*.jpg"))) == 6
    # Nothing but the finished file beside it.
    assert [path.name for path in tmp_path.glob("found*")] == ["found.pkl"]


def test_segmentor(zygote, trained, toy_data, tmp_path):
    metrics = run_test(
        *(zygote, trained, "segmentor", tmp_path / "w", "--out", tmp_path / "labels"),
        *("--show-dir", "drawn"),
    )
    predictions = sorted((tmp_path / "labels").glob("*.png"))
    assert [path.stem for path in predictions] == [f"{number:03d}" for number in range(6)]
    hits = pixels = 0
    for path in predictions:
        label = np.array(Image.open(toy_data / "labels" / path.name))
        hits += (np.array(Image.open(path)) == label).sum()
        pixels += label.size
    # Counted again from the written label images.
    assert metrics["aAcc"] == pytest.approx(100 * hits / pixels, abs=0.01)
    # The run's own records stay where they are.
    (run,) = (tmp_path / "w").glob("*/vis_data/config.py")
    drawn = sorted((run.parents[1] / "drawn").iterdir())
    assert [path.name for path in drawn] == [f"{number:03d}.jpg" for number in range(6)]
    assert not (trained / "drawn").exists()


@pytest.mark.parametrize("family", ["detector", "segmentor"])
def test_drawings_at_an_absolute_path(family, zygote, trained, tmp_path):
    run_test(zygote, trained, family, tmp_path / "w", "--show-dir", tmp_path / "drawn")
    assert len(list((tmp_path / "drawn").iterdir())) == 6


REFUSED = {
    "labels-over-the-ground-truth": ("segmentor", ["--out", "DATA/labels"], "is not empty, it"),
    "drawings-over-linked-images": ("detector", ["--show-dir", "CWD/links"], "is not empty, it"),
    "below-the-images": ("segmentor", ["--out", "DATA/images/new"], "holds data of the config"),
    "drawings-below-the-images": (
        *("detector", ["--show-dir", "DATA/images/new/one"], "holds data of the config"),
    ),
    "work-dir-in-the-data": (
        *("detector", ["--work-dir", "DATA/w", "--show-dir", "new"], "holds data of the config"),
    ),
    "new-work-dir-below-the-images": (
        *("detector", ["--work-dir", "link/images/new"], "holds data of the config"),
    ),
    "out-of-the-run": ("segmentor", ["--show-dir", "x/../../../labels"], "is not below"),
    "pickle-in-the-data": ("detector", ["--out", "DATA/found.pkl"], "holds data of the config"),
    "pickle-over-a-users": ("detector", ["--out", "users.pkl"], "exists already"),
    "pickle-over-a-dangling-link": ("detector", ["--out", "gone.pkl"], "exists already"),
    "labels-among-a-users": ("segmentor", ["--out", "users"], "is not empty, it holds thesis.txt"),
    "labels-and-drawings": ("segmentor", ["--out", "new", "--show-dir", "CWD/new"], "the same"),
    "empty-name": ("segmentor", ["--out", ""], "--out is empty"),
}


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", REFUSED)
def test_nothing_is_written_over(case, zygote, toy_data, tmp_path):
    family, arguments, says = REFUSED[case]
    data = tmp_path / "data"
    shutil.copytree(toy_data, data)
    write_config(family, data, tmp_path / "config.py")
    (tmp_path / "link").symlink_to(data)
    (tmp_path / "gone.pkl").symlink_to(tmp_path / "elsewhere.pkl")
    for name in ("links", "users"):
        (tmp_path / name).mkdir()
    for image in (data / "images").iterdir():
        os.link(image, tmp_path / "links" / image.name)
    for name in ("users.pkl", "users/thesis.txt"):
        (tmp_path / name).write_text("all of it")
    torch.save(dict(state_dict={}), tmp_path / "model.pth")
    before = contents(tmp_path)
    filled = [each.replace("DATA", str(data)).replace("CWD", str(tmp_path)) for each in arguments]
    run = zygote.run(TEST, "config.py", "model.pth", *filled, cwd=tmp_path)
    assert run.status == 2, run.stdout
    assert says in run.stderr and run.stderr.count("\n") == 1, run.stderr
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_plain_call(trained, tmp_path):
    """A process of its own, as a user starts it: nothing was imported before."""
    call = [sys.executable, "tools/test.py", trained / "segmentor.py", trained / "segmentor.pth"]
    run = subprocess.run(
        [*call, "--work-dir", tmp_path / "w"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    (metrics,) = (tmp_path / "w").glob("*/*.json")
    assert 0 <= json.loads(metrics.read_text())["aAcc"] <= 100


WRAPPED = """
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="RepeatDataset", times=1, dataset=val_dataloader["dataset"]),
)
"""


@pytest.mark.parametrize("family", ["detector", "segmentor"])
def test_tta_of_a_wrapped_data_set(family, zygote, trained, toy_data, tmp_path):
    """Its scores are those of the data set without a wrapper."""
    config = write_config(family, toy_data, tmp_path / "wrapped.py", WRAPPED)
    scores = []
    for name in (trained / f"{family}.py", config):
        run = zygote.run(
            *(TEST, name, trained / f"{family}.pth", "--tta", "--work-dir", Path(name).stem),
            cwd=tmp_path,
        )
        assert run.status == 0, run.stderr
        (metrics,) = (tmp_path / Path(name).stem).glob("*/*.json")
        found = json.loads(metrics.read_text())
        scores.append({key: value for key, value in found.items() if "time" not in key})
    assert scores[0] == scores[1]


@pytest.mark.parametrize("family", ["detector", "segmentor"])
def test_tta(family, zygote, trained, tmp_path):
    metrics = run_test(zygote, trained, family, tmp_path / "w", "--tta")
    assert {"detector": "coco/bbox_mAP", "segmentor": "mIoU"}[family] in metrics


def test_missing_upsampler_is_not_tested(zygote, trained, tmp_path):
    """Weights that the checkpoint lacks would be random: their scores would mean nothing."""
    checkpoint = load_checkpoint_file(trained / "detector.pth")
    state = checkpoint["state_dict"]
    lost = [name for name in state if ".offset." in name]
    assert lost
    torch.save({k: v for k, v in state.items() if k not in lost}, tmp_path / "lossy.pth")
    run = zygote.run(TEST, trained / "detector.py", tmp_path / "lossy.pth", cwd=tmp_path)
    assert run.status == 2
    assert f"{len(lost)} of its" in run.stderr
    assert lost[0] in run.stderr


def test_additional_weights_are_fine(zygote, trained, tmp_path):
    checkpoint = load_checkpoint_file(trained / "detector.pth")
    state = {**checkpoint["state_dict"], "teacher.weight": torch.zeros(1)}
    torch.save(dict(state_dict=state), tmp_path / "more.pth")
    run = zygote.run(
        TEST, trained / "detector.py", tmp_path / "more.pth", "--work-dir", "w", cwd=tmp_path
    )
    assert run.status == 0, run.stderr
    assert "unused: 'teacher.weight'" in run.stdout
