"""A run that was killed and resumed ends with the weights of one that was not, bit for bit."""

from __future__ import annotations

import re
import shutil
import signal
import struct
from collections import Counter
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.config import Config
from mmengine.logging import HistoryBuffer

from mmdysample.engine.checkpoint import CheckpointError, load_checkpoint_file
from mmdysample.engine.resume import can_continue, newest_checkpoint, plan_resume, read_position
from tests.engine.accidents import accident
from tests.engine.tiny import ready_runner, write_tiny_config
from tests.engine.toy import write_config
from tests.engine.zygote import TRAIN

FINITE_SAMPLER = (
    'train_dataloader["sampler"] = dict(type="DefaultSampler", shuffle=True)\n'
    "train_dataloader.update(num_workers=2, drop_last=True, batch_size=4)\n"
    'inner = train_dataloader["dataset"]\n'
    'train_dataloader["dataset"] = dict(type="RepeatDataset", times=2, dataset=inner)\n'
)
WEIGHT = struct.pack("<8f", *[1.5] * 8)


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


@pytest.mark.parametrize(
    ("family", "extra", "last"),
    [
        ("detector", "", "epoch_3.pth"),
        ("segmentor", "", "iter_8.pth"),
        pytest.param("segmentor", FINITE_SAMPLER, "iter_8.pth", marks=pytest.mark.slow),
    ],
    ids=["epochs", "iterations", "iterations-finite-sampler"],
)
def test_killed_and_resumed_equals_unkilled(family, extra, last, zygote, toy_data, tmp_path):
    """Also the seed that the killed run has drawn is kept."""
    plain = write_config(family, toy_data, tmp_path / "plain.py", extra)
    lethal = write_config(family, toy_data, tmp_path / "lethal.py", extra + accident(iteration=5))
    killed = zygote.run(TRAIN, lethal, "--work-dir", "killed", cwd=tmp_path)
    assert killed.status == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed" / last).exists()
    (checkpoint,) = (tmp_path / "killed").glob("*.pth")
    seed = load_checkpoint_file(checkpoint)["meta"]["seed"]
    resumed = zygote.start(TRAIN, plain, "--work-dir", "killed", "--resume", cwd=tmp_path)
    option = f"randomness.seed={seed}"
    unkilled = zygote.run(
        TRAIN, plain, "--work-dir", "unkilled", "--cfg-options", option, cwd=tmp_path
    )
    assert unkilled.status == 0, unkilled.stderr
    result = zygote.wait(resumed)
    assert result.status == 0, result.stderr
    assert f"--resume: from {checkpoint} " in result.stdout
    assert_equal(tmp_path / "unkilled" / last, tmp_path / "killed" / last)


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
    """A work dir with checkpoints of epochs 1 to 3, the second being the one noted as the last."""
    directory = tmp_path / "work"
    directory.mkdir()
    for epoch in (1, 2, 3):
        content = dict(
            meta=dict(epoch=epoch, iter=epoch * 5, seed=11),
            optimizer={},
            state_dict=dict(weight=torch.full((8,), 1.5)),
        )
        torch.save(content, directory / f"epoch_{epoch}.pth")
    (directory / "epoch_4.pth.0123456789abcdef.tmp").write_bytes(b"half")
    (directory / "last_checkpoint").write_text(str(directory / "epoch_2.pth"))
    return directory


def config_of(directory: Path, **settings) -> Config:
    return Config(dict(work_dir=str(directory), **settings))


def newest(directory: Path, **settings) -> str:
    path, checkpoint = newest_checkpoint(config_of(directory, **settings))
    assert checkpoint["meta"]["epoch"] == int(re.search(r"\d+", Path(path).name)[0])
    return path


def test_newest_is_the_noted_one(work_dir):
    """Whatever else is there, such as the later ones of a run that is resumed at an earlier."""
    assert newest(work_dir) == str(work_dir / "epoch_2.pth")


@pytest.mark.parametrize(
    "note", [None, b"", b"../../elsewhere.pth", b"\xff\x00/epoch_9.pth", b"/etc/passwd"]
)
def test_without_a_note_of_use_it_is_that_of_the_highest_step(work_dir, note):
    (work_dir / "epoch_3.pth").rename(work_dir / "epoch_10.pth")
    content = torch.load(work_dir / "epoch_10.pth")
    content["meta"]["epoch"] = 10
    torch.save(content, work_dir / "epoch_10.pth")
    if note is None:
        (work_dir / "last_checkpoint").unlink()
    else:
        (work_dir / "last_checkpoint").write_bytes(note)
    assert newest(work_dir) == str(work_dir / "epoch_10.pth")


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty"])
def test_damaged_is_passed_over_by_name(work_dir, damage, capsys):
    path = work_dir / "epoch_2.pth"
    content = path.read_bytes()
    changed = content.replace(WEIGHT, WEIGHT[:-1] + b"\x00")
    assert changed != content
    path.write_bytes(dict(truncated=content[:-100], changed=changed, empty=b"")[damage])
    assert newest(work_dir) == str(work_dir / "epoch_3.pth")
    assert "epoch_2.pth" in capsys.readouterr().out


def test_a_copied_work_dir_continues_from_its_own(work_dir, tmp_path):
    """`cp -r A B`: the path in B's last_checkpoint is one of A's."""
    copied = tmp_path / "copied"
    shutil.copytree(work_dir, copied)
    assert newest(copied) == str(copied / "epoch_2.pth")


def test_all_damaged_is_an_error(work_dir):
    for path in work_dir.glob("*.pth"):
        path.write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match="none of the checkpoints in"):
        newest_checkpoint(config_of(work_dir))


def test_names_of_the_config(work_dir, tmp_path):
    """Checkpoints elsewhere are in a directory that has the work dir's name."""
    (work_dir / "epoch_3.pth").rename(work_dir / "step-3.ckpt")
    hook = dict(type="CheckpointHook", filename_tmpl="step-{}.ckpt", out_dir=str(tmp_path))
    hooks = dict(checkpoint=hook)
    path = newest(tmp_path / "elsewhere" / "work", default_hooks=hooks)
    assert path == str(work_dir / "step-3.ckpt")


def test_nothing_to_resume(work_dir, tmp_path, capsys):
    """A job that is requeued with --resume begins with the config's weights the first time."""
    cfg = config_of(tmp_path / "new", load_from=str(work_dir / "epoch_1.pth"))
    assert plan_resume(cfg, "auto") is None
    assert not cfg.resume and not can_continue(cfg)
    assert cfg.load_from == str(work_dir / "epoch_1.pth")
    assert "the run starts from its beginning" in capsys.readouterr().out


def test_seed_of_the_checkpoint(work_dir):
    cfg = config_of(work_dir, randomness=dict(seed=5, deterministic=True))
    assert plan_resume(cfg, "auto")["meta"]["epoch"] == 2
    assert cfg.randomness == dict(seed=11, deterministic=True)
    assert cfg.load_from == str(work_dir / "epoch_2.pth") and can_continue(cfg)


@pytest.mark.parametrize("lost", ["meta", "optimizer"])
def test_weights_alone_cannot_be_resumed(work_dir, lost):
    content = torch.load(work_dir / "epoch_1.pth")
    del content[lost]
    torch.save(content, work_dir / "weights.pth")
    with pytest.raises(CheckpointError, match="not with --resume"):
        plan_resume(config_of(work_dir), str(work_dir / "weights.pth"))


@pytest.mark.parametrize(
    ("key", "value", "fits"),
    [
        *(("seed", seed, True) for seed in (0, 2**32 - 1, None)),
        *(("seed", seed, False) for seed in (-1, 2**32, 1.0, True)),
        *(("iter", iteration, False) for iteration in (-1, 2**31, "1", None)),
    ],
)
def test_positions_are_counts(work_dir, key, value, fits):
    checkpoint = load_checkpoint_file(work_dir / "epoch_3.pth")
    checkpoint["meta"][key] = value
    if fits:
        assert read_position(checkpoint, "x.pth")[:3] == (3, 15, value)
    else:
        with pytest.raises(CheckpointError, match=rf"meta\['{key}'\] is .* from 0 to "):
            read_position(checkpoint, "x.pth")


@pytest.fixture
def runner(tmp_path):
    steps = [dict(type="MultiStepLR", milestones=[1, 3], by_epoch=False)]
    config = write_tiny_config(tmp_path / "config.py", param_scheduler=steps)
    return ready_runner(config, tmp_path / "w")


@pytest.fixture
def checkpoint(runner, tmp_path) -> dict:
    """That of a run that has made one step."""
    batch = next(iter(runner.train_dataloader))
    runner.model.train_step(batch, runner.optim_wrapper)
    runner.save_checkpoint(str(tmp_path), "one.pth", save_param_scheduler=True)
    return load_checkpoint_file(tmp_path / "one.pth")


def resume(runner, checkpoint: dict, directory: Path) -> None:
    torch.save(checkpoint, directory / "changed.pth")
    runner.resume(str(directory / "changed.pth"))


def changed(checkpoint: dict, place: str, value: object) -> dict:
    """The checkpoint with another value at ``a.b.0.c``; with None, without that entry."""
    owner = checkpoint
    *above, last = [int(part) if part.isdecimal() else part for part in place.split(".")]
    for part in above:
        owner = owner[part]
    if value is None:
        del owner[last]
    else:
        owner[last] = value
    return checkpoint


GROUP, MOMENTS, SCHEDULER = "optimizer.param_groups.0", "optimizer.state.0", "param_schedulers.0"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("optimizer", []),
        ("optimizer.param_groups", []),
        (f"{GROUP}.lr", "fast"),
        (f"{GROUP}.lr", None),
        (f"{GROUP}.params", [0]),
        (f"{GROUP}.betas", None),  # as of another optimizer
        (f"{GROUP}.betas", (3.0, 3.0)),
        ("optimizer.state", None),
        (f"{MOMENTS}.exp_avg", None),
        (f"{MOMENTS}.exp_avg", torch.zeros(7)),
        (f"{MOMENTS}.step", "text"),
        (f"{MOMENTS}.step", -1),
        ("param_schedulers", []),  # as of another config
        (f"{SCHEDULER}.last_step", "text"),
        (f"{SCHEDULER}.base_values", [0.1, 0.2]),
        (f"{SCHEDULER}.gamma", None),
    ],
)
def test_what_does_not_fit_the_run(runner, checkpoint, place, value, tmp_path):
    expected = "another model, optimizer or parameter schedulers .* load_from"
    with pytest.raises(CheckpointError, match=expected):
        resume(runner, changed(checkpoint, place, value), tmp_path)


class OwnAdamW(torch.optim.AdamW):
    """One of another package: no step is tried with its state."""

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for state in self.state.values():
            state["exp_avg"].zero_()


FITTING = dict(step=torch.tensor(1.0), exp_avg=torch.zeros(1, 2), exp_avg_sq=torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("state", "fits"),
    [
        ({}, True),
        ({0: FITTING}, True),
        ({0: {}}, False),
        ({0: "text"}, False),
        ({4: FITTING}, False),  # of four parameters
        ({"a": FITTING}, False),
        ([FITTING], False),
        (None, False),
    ],
)
def test_state_of_an_optimizer_of_another_package(runner, checkpoint, state, fits, tmp_path):
    runner.optim_wrapper.optimizer = OwnAdamW(runner.model.parameters())
    checkpoint["optimizer"]["state"] = state
    if fits:
        resume(runner, checkpoint, tmp_path)
        assert len(runner.optim_wrapper.state_dict()["state"]) == len(state)
    else:
        with pytest.raises(CheckpointError, match=r"optimizer\.state .* load_from"):
            resume(runner, checkpoint, tmp_path)


@pytest.mark.parametrize("error", [MemoryError, torch.cuda.OutOfMemoryError])
def test_too_little_memory_is_not_the_fault_of_the_state(
    runner, checkpoint, error, tmp_path, monkeypatch
):
    def full(optimizer):
        raise error

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(error):
        resume(runner, checkpoint, tmp_path)


def test_of_the_optimizer_only_numbers_and_tensors_are_taken(runner, checkpoint, tmp_path):
    group = checkpoint["optimizer"]["param_groups"][0]
    group.update(lr=0.5, weight_decay=0.5, capturable=True, evil="text")
    resume(runner, checkpoint, tmp_path)
    (taken,) = runner.optim_wrapper.param_groups
    assert taken["lr"] == 0.5 and taken["capturable"] is False and "evil" not in taken
    moments = runner.optim_wrapper.state_dict()["state"][0]
    assert moments["step"] == 1
    assert torch.equal(moments["exp_avg"], checkpoint["optimizer"]["state"][0]["exp_avg"])
    # The step that shows whether the state can be used is not the run's.
    weight = runner.model.layer.weight
    assert torch.equal(weight, checkpoint["state_dict"]["layer.weight"]) and weight.grad is None


def test_of_a_scheduler_only_numbers_are_taken(runner, checkpoint, tmp_path):
    """Milestones, which are counts by step, stay the config's."""
    evil = dict(last_step=2, milestones=Counter({2: 10**13}), step="text", optimizer=2)
    checkpoint["param_schedulers"][0].update(evil)
    resume(runner, checkpoint, tmp_path)
    (scheduler,) = runner.param_schedulers
    assert scheduler.last_step == 2 and scheduler.milestones == Counter({1: 1, 3: 1})
    assert callable(scheduler.step) and scheduler.optimizer is not None


@pytest.mark.parametrize("place", ["meta.epoch", "message_hub.runtime_info.best_score"])
def test_numbers_without_end(runner, checkpoint, place, tmp_path):
    with pytest.raises(CheckpointError, match="more than 128 bits"):
        resume(runner, changed(checkpoint, place, 10**5000), tmp_path)


def test_messages_that_are_taken(runner, checkpoint, tmp_path):
    """The history of what was logged, and the best score; mmengine cannot hold an empty history."""
    full = HistoryBuffer([0.5], [1])
    hub = checkpoint["message_hub"]
    hub["log_scalars"] = dict(empty=HistoryBuffer(), full=full, text="text")
    hub["runtime_info"] = dict(best_score=3, best_score_b="text", best_ckpt="/x", cfg="exit()")
    before = dict(runner.message_hub.runtime_info)
    resume(runner, checkpoint, tmp_path)
    assert list(runner.message_hub.log_scalars) == ["full"]
    assert runner.message_hub.log_scalars["full"].current() == 0.5
    assert runner.message_hub.runtime_info == {**before, "best_score": 3.0}


@pytest.mark.parametrize("hub", [[], dict(runtime_info="text", log_scalars=[])])
def test_messages_of_another_kind_are_none(runner, checkpoint, hub, tmp_path):
    resume(runner, {**checkpoint, "message_hub": hub}, tmp_path)
