"""RestartableRunner and its hooks around a model of one weight."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

import numpy as np
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import CheckpointHook
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.runner import IterBasedTrainLoop
from torch import distributed, nn
from torch.utils.data import Dataset

from mmdysample.atomic import replacing
from mmdysample.engine.checkpoint import CheckpointError, install_safe_loading
from mmdysample.engine.hooks import LeaveOutFunctions, WriteFirstCheckpointHook
from mmdysample.engine.runner import (
    RestartableRunner,
    _counts_iterations,
    _SkippingIterator,
    build_runner,
)
from mmdysample.errors import UserError
from tests.engine import tiny  # noqa: F401, registers its model


class Numbers(Dataset):
    """Samples that are their index and a random number."""

    length = 6

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return dict(inputs=torch.tensor([float(index), random.random()]))


class Model(BaseModel):
    """Remembers what it was given and what it drew itself."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.norm = nn.SyncBatchNorm(1)
        self.seen: list = []
        self.drawn: list = []

    def forward(self, inputs, mode="tensor"):
        if mode == "predict":
            return [{} for _ in inputs]
        self.seen += [row.tolist() for row in inputs]
        self.drawn += [random.random(), np.random.rand(), torch.rand(()).item()]
        return dict(loss=self.layer(torch.stack(tuple(inputs))).square().mean())


class Scores(BaseMetric):
    """Gives two scores, which are set for each validation."""

    series: tuple = ()

    def __init__(self):
        super().__init__()
        self.rest = list(self.series)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(self.rest.pop(0))


LOADER = dict(
    batch_size=2,
    num_workers=0,
    dataset=dict(type=Numbers),
    sampler=dict(type="DefaultSampler", shuffle=True),
)


def runner(work_dir: Path, **changes) -> RestartableRunner:
    settings = dict(
        model=Model(),
        work_dir=str(work_dir),
        train_dataloader=LOADER,
        train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01)),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)),
        randomness=dict(seed=1),
        experiment_name=f"{work_dir.parent.name}_{work_dir.name}_{random.getrandbits(60)}",
    )
    return RestartableRunner(**{**settings, **changes})


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.pth*"))


@pytest.fixture(autouse=True)
def _safe_loading():
    install_safe_loading()


@pytest.mark.parametrize("workers", [0, 1])
def test_model_and_data_draw_by_place(tmp_path, workers):
    """Of two runs, one of which draws more numbers in between, both see the same."""
    loader = {**LOADER, "num_workers": workers}
    first = runner(tmp_path / "first", train_dataloader=loader)
    first.train()
    second = runner(tmp_path / "second", train_dataloader=loader)
    second.register_hook(Disturbing())
    second.train()
    assert first.model.seen == second.model.seen
    assert first.model.drawn == second.model.drawn
    assert len(first.model.seen) == 18
    assert len({tuple(row) for row in first.model.seen}) == 18


class Disturbing(CheckpointHook):
    def after_train_iter(self, runner, *_, **__):
        random.random(), np.random.rand(), torch.rand(7)


@pytest.mark.parametrize(
    ("by_epoch", "hook", "done", "sampler"),
    [
        (True, dict(interval=1), 3, "DefaultSampler"),
        (True, dict(interval=4, by_epoch=False), 4, "DefaultSampler"),
        (False, dict(interval=4, by_epoch=False), 4, "DefaultSampler"),
        (False, dict(interval=3, by_epoch=False), 3, "InfiniteSampler"),
    ],
    ids=["epochs", "within-epoch", "iterations-finite-sampler", "iterations"],
)
def test_resumed_sees_what_was_left(tmp_path, by_epoch, hook, done, sampler):
    loop = dict(max_epochs=3) if by_epoch else dict(max_iters=9)
    settings = dict(
        train_cfg=dict(by_epoch=by_epoch, **loop),
        train_dataloader={**LOADER, "sampler": dict(type=sampler, shuffle=True)},
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", **hook)),
    )
    whole = runner(tmp_path / "whole", **settings)
    whole.train()
    name = "epoch_1.pth" if hook.get("by_epoch", True) else f"iter_{done}.pth"
    rest = runner(
        tmp_path / "rest", load_from=str(tmp_path / "whole" / name), resume=True, **settings
    )
    rest.train()
    assert len(whole.model.seen) == 18
    assert rest.model.seen == whole.model.seen[2 * done :]
    assert rest.model.drawn == whole.model.drawn[3 * done :]
    assert torch.equal(rest.model.layer.weight, whole.model.layer.weight)


def test_resumed_keeps_the_seed_of_the_checkpoint(tmp_path):
    """Also one that is drawn, and in a process that has not read `--resume`."""
    first = runner(tmp_path / "w", randomness=dict(seed=None))
    first.train()
    again = dict(load_from=str(tmp_path / "w" / "epoch_1.pth"), resume=True)
    second = runner(tmp_path / "w", randomness=dict(seed=None), **again)
    second.train()
    assert second.seed == first.seed
    assert second.model.seen == first.model.seen[6:]
    assert second.model.drawn == first.model.drawn[9:]


def test_resumed_with_one_cycle(tmp_path):
    """Its schedulers keep a function, which no checkpoint may hold."""
    cycle = dict(type="OneCycleLR", eta_max=0.1, total_steps=9, by_epoch=False)
    settings = dict(param_scheduler=cycle)
    whole = runner(tmp_path / "whole", **settings)
    whole.train()
    first = str(tmp_path / "whole" / "epoch_1.pth")
    rest = runner(tmp_path / "rest", load_from=first, resume=True, **settings)
    rest.train()
    assert torch.equal(rest.model.layer.weight, whole.model.layer.weight)
    rest.load_checkpoint(str(tmp_path / "rest" / "epoch_3.pth"), strict=True)  # as to test it


def test_functions_are_left_out_of_several_lists_of_schedulers():
    checkpoint = dict(param_schedulers=dict(a=[dict(function=len, step=1)], b=[]))
    LeaveOutFunctions().before_save_checkpoint(None, checkpoint)
    assert checkpoint == dict(param_schedulers=dict(a=[dict(step=1)], b=[]))


@pytest.mark.parametrize("by_epoch", [True, False])
def test_resuming_a_run_that_is_complete(tmp_path, by_epoch):
    """Nothing is trained: said if the run is as long as the config wants, else an error."""
    name, unit = ("max_epochs", "epochs") if by_epoch else ("max_iters", "iters")
    hook = dict(checkpoint=dict(type="CheckpointHook", interval=2, by_epoch=by_epoch))
    loop = {"by_epoch": by_epoch, name: 2}
    runner(tmp_path / "w", train_cfg=loop, default_hooks=hook).train()
    last = str(tmp_path / "w" / f"{unit.removesuffix('s')}_2.pth")

    again = runner(tmp_path / "w", train_cfg=loop, load_from=last, resume=True)
    again.train()
    assert again.model.seen == []
    sentence = f"--resume: all 2 {unit} of the run are done, so nothing is left to train on"
    assert any(sentence in log.read_text() for log in (tmp_path / "w").glob("*/*.log"))

    shorter = {**loop, name: 1}
    with pytest.raises(UserError, match=f"2 {unit} behind it, and the config's {name} is 1"):
        runner(tmp_path / "w", train_cfg=shorter, load_from=last, resume=True).train()


@pytest.mark.skipif(torch.cuda.is_available(), reason="run it with CUDA_VISIBLE_DEVICES=''")
def test_sync_bn_is_converted(tmp_path, monkeypatch):
    """In a process group on the CPU, where it cannot run; also the one that the config asks for."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        settings = dict(device_ids=None, find_unused_parameters=True)
        wrapper = dict(type="MMDistributedDataParallel", **settings)
        cfg = dict(model_wrapper_cfg=wrapper, sync_bn="torch")
        made = runner(tmp_path / "w", launcher="pytorch", cfg=cfg)
        made.train()
        kinds = [type(module) for module in made.model.modules()]
        assert kinds[0] is MMDistributedDataParallel
        assert nn.SyncBatchNorm not in kinds
        assert any(issubclass(kind, nn.modules.batchnorm._BatchNorm) for kind in kinds)
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("type_", ["mmengine.CheckpointHook", CheckpointHook])
def test_checkpoint_hook_is_exchanged(tmp_path, type_):
    made = runner(tmp_path / "w", default_hooks=dict(checkpoint=dict(type=type_, interval=7)))
    (hook,) = [hook for hook in made.hooks if isinstance(hook, CheckpointHook)]
    assert type(hook) is WriteFirstCheckpointHook
    assert hook.interval == 7


def test_hooks_of_the_users_own_stay(tmp_path):
    made = runner(tmp_path / "w", default_hooks=dict(checkpoint=Disturbing()))
    (hook,) = [hook for hook in made.hooks if isinstance(hook, CheckpointHook)]
    assert type(hook) is Disturbing


@pytest.mark.parametrize("keep", [-1, 2])
def test_keeps_as_many_as_asked(tmp_path, keep):
    """Of the run's own: what was there when it started is somebody else's."""
    hook = dict(type="CheckpointHook", interval=1, max_keep_ckpts=keep)
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "epoch_0.pth").touch()
    runner(tmp_path / "w", default_hooks=dict(checkpoint=hook)).train()
    expected = [f"epoch_{epoch}.pth" for epoch in (1, 2, 3)]
    assert names(tmp_path / "w") == ["epoch_0.pth", *(expected if keep == -1 else expected[-keep:])]


def validated(work_dir: Path, series: list, rest=None, settings=(), **hook) -> RestartableRunner:
    Scores.series = tuple(series if rest is None else rest)
    checkpoint = dict(type="CheckpointHook", interval=1, max_keep_ckpts=1, **hook)
    made = runner(
        work_dir,
        train_cfg=dict(by_epoch=True, max_epochs=len(series)),
        default_hooks=dict(checkpoint=checkpoint),
        val_cfg=dict(),
        val_evaluator=dict(type=Scores),
        val_dataloader={**LOADER, "sampler": dict(type="DefaultSampler", shuffle=False)},
        **dict(settings),
    )
    made.train()
    return made


def test_best_checkpoints(tmp_path):
    """Each score's best so far is kept, and the last checkpoint."""
    series = [dict(a=1, b=9), dict(a=3, b=8), dict(a=2, b=7)]
    validated(tmp_path / "w", series, save_best=["a", "b"], rule="greater")
    assert names(tmp_path / "w") == ["best_a_epoch_2.pth", "best_b_epoch_1.pth", "epoch_3.pth"]


def test_old_best_is_there_while_the_new_one_is_written(tmp_path, monkeypatch):
    saved = RestartableRunner.save_checkpoint
    there = []

    def spy(self, out_dir, filename, *args, **kwargs):
        there.append((filename, names(tmp_path / "w")))
        saved(self, out_dir, filename, *args, **kwargs)

    monkeypatch.setattr(RestartableRunner, "save_checkpoint", spy)
    validated(tmp_path / "w", [dict(a=1), dict(a=2)], save_best="a", rule="greater")
    before = dict(there)
    assert "best_a_epoch_1.pth" in before["best_a_epoch_2.pth"]
    assert "epoch_1.pth" in next(found for name, found in there if name == "epoch_2.pth")
    assert names(tmp_path / "w") == ["best_a_epoch_2.pth", "epoch_2.pth"]


def test_failed_write_keeps_what_was_there(tmp_path, monkeypatch):
    import mmengine.fileio.backends.local_backend as backend

    put = backend.LocalBackend.put

    def full(self, obj, filepath):
        if "epoch_2" in str(filepath):
            put(self, obj[:100], filepath)
            raise OSError(28, "No space left on device")
        put(self, obj, filepath)

    monkeypatch.setattr(backend.LocalBackend, "put", full)
    hook = dict(type="CheckpointHook", interval=1, max_keep_ckpts=1)
    with pytest.raises(OSError, match="No space left") as caught:
        runner(tmp_path / "w", default_hooks=dict(checkpoint=hook)).train()
    assert names(tmp_path / "w") == ["epoch_1.pth"]
    assert (tmp_path / "w" / "last_checkpoint").read_text().endswith("epoch_1.pth")
    assert caught.value.filename == str(tmp_path / "w" / "epoch_2.pth")


def test_drafts_of_killed_runs_are_removed(tmp_path):
    directory = tmp_path / "w"
    directory.mkdir()
    drafts = [
        directory / f"{name}.pth.0123456789abcdef.tmp" for name in ("epoch_7", "best_a_epoch_5")
    ]
    users = [directory / name for name in ("notes.tmp", "epoch_1.pth.tmp", "epoch_1.pth.mine.tmp")]
    for path in drafts + users:
        path.write_text("half, or the user's own")
    with replacing(directory / "epoch_9.pth") as draft:  # another run is writing it
        draft.write_text("half")
        runner(directory).train()
        assert draft.exists()
    assert [draft for draft in drafts if draft.exists()] == []
    assert all(path.exists() for path in users)


class OwnLoop(IterBasedTrainLoop):
    pass


@pytest.mark.parametrize(
    ("loop", "expected"),
    [
        (dict(by_epoch=True, max_epochs=1), False),
        (dict(by_epoch=False, max_iters=1), True),
        (dict(type="EpochBasedTrainLoop"), False),
        (dict(type="mmengine.IterBasedTrainLoop"), True),
        (dict(type=OwnLoop), True),
    ],
)
def test_which_loops_count_iterations(loop, expected):
    assert _counts_iterations(loop) is expected


class Locked(Numbers):
    """Cannot be copied, as many that hold an open file."""

    def __init__(self):
        self.lock = threading.Lock()


@pytest.mark.parametrize("dataset", [dict(type=Locked), [dict(inputs=n) for n in range(6)]])
def test_data_sets_that_are_not_copied_or_take_no_attributes(dataset):
    made = RestartableRunner.build_dataloader({**LOADER, "dataset": dataset}, seed=0)
    assert [len(batch["inputs"]) for batch in made] == [2, 2, 2]


def test_empty_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(Numbers, "length", 0)
    with pytest.raises(UserError, match="the data set Numbers is empty"):
        runner(tmp_path / "w").train()


def load(tmp_path: Path, state: dict, **changes) -> RestartableRunner:
    """Train from a checkpoint with a learning rate of 0."""
    torch.save(dict(state_dict=state), tmp_path / "weights.pth")
    still = dict(optimizer=dict(type="SGD", lr=0.0))
    checkpoint = str(tmp_path / "weights.pth")
    made = runner(tmp_path / "w", load_from=checkpoint, optim_wrapper=still, **changes)
    made.train()
    return made


def test_fine_tuning_from_a_part(tmp_path):
    """Another number of outputs, say: what fits is loaded, the rest reported by mmengine."""
    model = Model()
    bias = model.layer.bias.detach().clone()
    state = {"layer.weight": torch.full((1, 2), 0.25), "layer.bias": torch.zeros(3)}
    made = load(tmp_path, state, model=model)
    # Nothing of the model was drawn to be 0.25, and training, without a step, leaves it so.
    assert torch.equal(made.model.layer.weight, torch.full((1, 2), 0.25))
    assert torch.equal(made.model.layer.bias, bias)


def test_nothing_fits(tmp_path):
    with pytest.raises(CheckpointError, match="6 of its 6 parameters and buffers"):
        load(tmp_path, {"layer.weight": torch.zeros(3, 2), "head.bias": torch.zeros(3)})


def test_resumed_keeps_as_many_as_asked(tmp_path):
    """What a resumed run may delete it sees in its own directory; nothing else goes."""
    others = ["best_b_epoch_1.pth", "epoch_1.pth.bak", "epoch_x.pth", "best_a_epoch_9.pth"]
    directory = tmp_path / "w"
    validated(directory, [dict(a=2), dict(a=1)], save_best="a", rule="greater")
    assert names(directory) == ["best_a_epoch_1.pth", "epoch_2.pth"]
    for other in others:
        (directory / other).write_text("a user's")
    settings = dict(resume=True, load_from=str(directory / "epoch_2.pth"))
    series = [dict(a=2), dict(a=1), dict(a=1.5), dict(a=3)]
    validated(directory, series, series[2:], save_best="a", rule="greater", settings=settings)
    expected = ["best_a_epoch_4.pth", "epoch_4.pth", *others]
    assert sorted(path.name for path in directory.glob("*.pth*")) == sorted(expected)


def keep_one(work_dir: Path, epochs: int, checkpoint: Path) -> None:
    """Continue a run that kept all of its checkpoints in one that keeps the last alone."""
    runner(
        work_dir,
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=1)),
        load_from=str(checkpoint),
        resume=True,
    ).train()


def test_resumed_keeps_what_the_earlier_run_was_to_keep(tmp_path):
    runner(tmp_path / "w").train()
    keep_one(tmp_path / "w", 5, tmp_path / "w" / "epoch_3.pth")
    assert names(tmp_path / "w") == ["epoch_1.pth", "epoch_2.pth", "epoch_5.pth"]


def test_resumed_from_elsewhere_keeps_what_is_there(tmp_path):
    """But for what it replaces."""
    runner(tmp_path / "first").train()
    runner(tmp_path / "second").train()
    keep_one(tmp_path / "second", 4, tmp_path / "first" / "epoch_2.pth")
    assert names(tmp_path / "second") == ["epoch_1.pth", "epoch_2.pth", "epoch_4.pth"]


def test_other_runners_load_no_checkpoint(tmp_path):
    """mmengine's FlexibleRunner resumes in a way of its own, which runs what a checkpoint says."""
    cfg = Config(dict(runner_type="FlexibleRunner", load_from="x.pth", work_dir=str(tmp_path)))
    with pytest.raises(UserError, match=r"runner_type='FlexibleRunner' .* leave runner_type out"):
        build_runner(cfg)


def test_the_plain_runner_is_ours(tmp_path):
    model = dict(type="TinyModel")
    settings = dict(work_dir=str(tmp_path / "w"), load_from="x.pth", model=model)
    assert type(build_runner(Config(dict(runner_type="Runner", **settings)))) is RestartableRunner


def test_a_loop_may_skip_in_place_of_drawing():
    """As that of onedl-mmengine does, which calls ``skip_iter`` of an iterator that has it."""

    class Skips:
        def __init__(self):
            self.batches = iter("ab")

        def skip_iter(self, count):
            raise AssertionError("the sampler has skipped them")

        def __next__(self):
            return next(self.batches)

    skips = _SkippingIterator(Skips(), 2)
    skips.skip_iter(2)
    assert next(skips) == "a"
    draws = _SkippingIterator(iter("ab"), 2)
    assert [next(draws) for _ in range(3)] == [None, None, "a"]
