"""A run that was killed and resumed ends with the weights of one that was not, bit for bit."""

from __future__ import annotations

import os
import re
import shutil
import signal
import struct
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.config import Config

from mmdysample.engine.checkpoint import CheckpointError, load_checkpoint_file
from mmdysample.engine.resume import (
    newest_checkpoint,
    plan_resume,
)
from tests.engine.accidents import accident
from tests.engine.tiny import write_tiny_config
from tests.engine.toy import write_config
from tests.engine.zygote import TRAIN

CHECKPOINT_WITHIN_EPOCH = (
    'default_hooks["checkpoint"].update(by_epoch=False, interval=2)\n'
    "train_dataloader.update(num_workers=0, persistent_workers=False)\n"
)
FINITE_SAMPLER = (
    'train_dataloader["sampler"] = dict(type="DefaultSampler", shuffle=True)\n'
    "train_dataloader.update(num_workers=2, drop_last=True, batch_size=4)\n"
    'inner = train_dataloader["dataset"]\n'
    'train_dataloader["dataset"] = dict(type="RepeatDataset", times=2, dataset=inner)\n'
)
WEIGHT = struct.pack("<8f", *[1.5] * 8)
# family, addition to its config, iteration of the kill, final checkpoint
CASES = {
    "epochs": ("detector", "", 5, "epoch_3.pth"),
    "within-epoch": ("detector", CHECKPOINT_WITHIN_EPOCH, 6, "iter_9.pth"),
    "iterations": ("segmentor", "", 5, "iter_8.pth"),
    "iterations-finite-sampler": ("segmentor", FINITE_SAMPLER, 5, "iter_8.pth"),
}


def weights(path: Path) -> dict[str, torch.Tensor]:
    checkpoint = load_checkpoint_file(path)
    moments = {
        f"{number}.{name}": value
        for number, state in checkpoint["optimizer"]["state"].items()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    assert moments
    return {**checkpoint["state_dict"], **moments}


def assert_equal(first: Path, second: Path) -> None:
    expected, actual = weights(first), weights(second)
    assert expected.keys() == actual.keys()
    different = [name for name in expected if not torch.equal(expected[name], actual[name])]
    assert different == []


@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_equals_unkilled(case, zygote, toy_data, tmp_path):
    family, extra, iteration, last = CASES[case]
    seed = "randomness = dict(seed=3)\n"
    plain = write_config(family, toy_data, tmp_path / "plain.py", extra + seed)
    lethal = write_config(
        family, toy_data, tmp_path / "lethal.py", extra + seed + accident(iteration=iteration)
    )
    unkilled = zygote.start(TRAIN, plain, "--work-dir", "unkilled", cwd=tmp_path)
    killed = zygote.run(TRAIN, lethal, "--work-dir", "killed", cwd=tmp_path)
    assert killed.status == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed" / last).exists()
    resumed = zygote.run(TRAIN, plain, "--work-dir", "killed", "--resume", cwd=tmp_path)
    assert resumed.status == 0, resumed.stderr
    assert "/killed/" in resumed.stdout.split("--resume: from ")[1].split()[0]
    result = zygote.wait(unkilled)
    assert result.status == 0, result.stderr
    assert_equal(tmp_path / "unkilled" / last, tmp_path / "killed" / last)


def test_drawn_seed_is_kept(zygote, toy_data, tmp_path):
    plain = write_config("segmentor", toy_data, tmp_path / "plain.py")
    lethal = write_config("segmentor", toy_data, tmp_path / "lethal.py", accident(iteration=5))
    assert zygote.run(TRAIN, lethal, "--work-dir", "a", cwd=tmp_path).status == -signal.SIGKILL
    seed = load_checkpoint_file(tmp_path / "a" / "iter_4.pth")["meta"]["seed"]
    assert zygote.run(TRAIN, plain, "--work-dir", "a", "--resume", cwd=tmp_path).status == 0
    option = f"randomness.seed={seed}"
    unkilled = zygote.run(TRAIN, plain, "--work-dir", "b", "--cfg-options", option, cwd=tmp_path)
    assert unkilled.status == 0, unkilled.stderr
    assert_equal(tmp_path / "a" / "iter_8.pth", tmp_path / "b" / "iter_8.pth")


def test_kill_while_writing_loses_only_that_checkpoint(zygote, toy_data, tmp_path):
    plain = write_config("segmentor", toy_data, tmp_path / "plain.py")
    lethal = write_config(
        "segmentor", toy_data, tmp_path / "lethal.py", accident(iteration=3, writing=True)
    )
    killed = zygote.run(TRAIN, lethal, "--work-dir", "w", cwd=tmp_path)
    assert killed.status == -signal.SIGKILL, killed.stderr
    work_dir = tmp_path / "w"
    # max_keep_ckpts=1: the only one is deleted when its successor is complete, not before.
    kept, draft = sorted(path.name for path in work_dir.glob("*.pth*"))
    assert kept == "iter_2.pth" and re.fullmatch(r"iter_4\.pth\.[0-9a-f]{16}\.tmp", draft)
    assert (work_dir / "last_checkpoint").read_text() == str(work_dir / "iter_2.pth")
    resumed = zygote.run(TRAIN, plain, "--work-dir", "w", "--resume", cwd=tmp_path)
    assert resumed.status == 0, resumed.stderr
    assert f"--resume: from {work_dir / 'iter_2.pth'}" in resumed.stdout
    assert sorted(path.name for path in work_dir.glob("*.pth*")) == ["iter_8.pth"]


COUNT_OPENED = """
import runpy, sys

def watch(event, arguments):
    if event == "open" and str(arguments[0]).endswith("epoch_1.pth"):
        print("opened", arguments[0], file=sys.stderr)

sys.addaudithook(watch)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("named", [True, False])
def test_the_checkpoint_is_opened_once(zygote, tmp_path, named):
    """It may be gigabytes on a slow disk, and another one after the first look."""
    first = write_tiny_config(tmp_path / "first.py", train_cfg=dict(by_epoch=True, max_epochs=1))
    result = zygote.run(TRAIN, first, "--work-dir", "w", cwd=tmp_path)
    assert result.status == 0, result.stderr
    (tmp_path / "count.py").write_text(COUNT_OPENED)
    config = write_tiny_config(tmp_path / "config.py")
    resume = ["--resume", "w/epoch_1.pth"] if named else ["--resume"]
    call = (tmp_path / "count.py", TRAIN, config, "--work-dir", "w", *resume)
    result = zygote.run(*call, cwd=tmp_path)
    assert result.status == 0, result.stderr
    assert result.stderr.count("opened ") == 1


@pytest.fixture
def work_dir(tmp_path) -> Path:
    """A work dir with checkpoints of epochs 1 to 3, the third being the last."""
    folder = tmp_path / "work"
    folder.mkdir()
    for epoch in (1, 2, 3):
        content = dict(
            meta=dict(epoch=epoch, iter=epoch * 5, seed=11),
            optimizer={},
            state_dict=dict(weight=torch.full((8,), 1.5)),
        )
        torch.save(content, folder / f"epoch_{epoch}.pth")
        stamp = time.time() - 100 + epoch
        os.utime(folder / f"epoch_{epoch}.pth", (stamp, stamp))
    note = folder / "last_checkpoint"
    note.write_text(str(folder / "epoch_3.pth"))
    os.utime(note, (stamp + 0.5, stamp + 0.5))
    return folder


def config_of(folder: Path, **settings) -> Config:
    return Config(dict(work_dir=str(folder), **settings))


def test_newest_is_the_last(work_dir):
    assert newest_checkpoint(config_of(work_dir))[0] == str(work_dir / "epoch_3.pth")


def test_drafts_are_ignored(work_dir):
    (work_dir / "epoch_4.pth.tmp").write_bytes(b"half")
    assert newest_checkpoint(config_of(work_dir))[0] == str(work_dir / "epoch_3.pth")


def test_later_than_its_mention(work_dir):
    """A kill between a checkpoint and the note of it."""
    (work_dir / "epoch_4.pth").write_bytes((work_dir / "epoch_3.pth").read_bytes())
    assert newest_checkpoint(config_of(work_dir))[0] == str(work_dir / "epoch_4.pth")


def test_longer_earlier_run_in_the_same_folder(work_dir):
    """A run started anew where one of nine epochs had been: its own checkpoint counts."""
    stale = work_dir / "epoch_9.pth"
    stale.write_bytes((work_dir / "epoch_3.pth").read_bytes())
    os.utime(stale, (1, 1))
    assert newest_checkpoint(config_of(work_dir))[0] == str(work_dir / "epoch_3.pth")


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "missing"])
def test_damaged_is_passed_over_by_name(work_dir, damage, capsys):
    path = work_dir / "epoch_3.pth"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        path.write_bytes(content[:-100])
    else:
        path.write_bytes(content.replace(WEIGHT, WEIGHT[:-1] + b"\x00"))
        assert path.read_bytes() != content
    assert newest_checkpoint(config_of(work_dir))[0] == str(work_dir / "epoch_2.pth")
    assert "epoch_3.pth" in capsys.readouterr().out


def test_a_copied_work_dir_continues_from_its_own(work_dir, tmp_path):
    """`cp -r A B`: the path in B's last_checkpoint is one of A's."""
    copied = tmp_path / "copied"
    shutil.copytree(work_dir, copied)
    torch.save(dict(state_dict={}), work_dir / "epoch_3.pth")
    assert newest_checkpoint(config_of(copied))[0] == str(copied / "epoch_3.pth")


@pytest.mark.parametrize("note", [b"../../elsewhere.pth", b"\xff\x00/epoch_9.pth", b"/etc/passwd"])
def test_a_note_of_something_else(work_dir, note):
    (work_dir / "last_checkpoint").write_bytes(note)
    assert newest_checkpoint(config_of(work_dir))[0] == str(work_dir / "epoch_3.pth")


def test_empty_note(work_dir):
    (work_dir / "last_checkpoint").write_text("")
    assert newest_checkpoint(config_of(work_dir))[0] == str(work_dir / "epoch_3.pth")


def test_all_damaged_is_an_error(work_dir):
    for path in work_dir.glob("*.pth"):
        path.write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match="none of the checkpoints in"):
        newest_checkpoint(config_of(work_dir))


def test_names_of_the_config(tmp_path):
    folder = tmp_path / "elsewhere" / "work"
    folder.mkdir(parents=True)
    torch.save({}, folder / "step-7.ckpt")
    hook = dict(type="CheckpointHook", filename_tmpl="step-{}.ckpt", out_dir=str(folder.parent))
    cfg = config_of(tmp_path / "work", default_hooks=dict(checkpoint=hook))
    assert newest_checkpoint(cfg)[0] == str(folder / "step-7.ckpt")


def test_nothing_to_resume_starts_anew(tmp_path, capsys):
    cfg = config_of(tmp_path)
    plan_resume(cfg, "auto")
    assert not cfg.resume
    assert "the run starts from its beginning" in capsys.readouterr().out


def test_nothing_to_resume_keeps_load_from(work_dir, tmp_path):
    """A job that is requeued with --resume begins with the config's weights the first time."""
    cfg = config_of(tmp_path / "new", load_from=str(work_dir / "epoch_1.pth"))
    plan_resume(cfg, "auto")
    assert not cfg.resume
    assert cfg.load_from == str(work_dir / "epoch_1.pth")


def test_seed_of_the_checkpoint(work_dir):
    cfg = config_of(work_dir, randomness=dict(seed=5, deterministic=True))
    plan_resume(cfg, "auto")
    assert cfg.randomness == dict(seed=11, deterministic=True)
    assert cfg.load_from == str(work_dir / "epoch_3.pth")


def test_weights_alone_cannot_be_resumed(tmp_path):
    torch.save(dict(state_dict={}), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="not with --resume"):
        plan_resume(config_of(tmp_path), str(tmp_path / "weights.pth"))
