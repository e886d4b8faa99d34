"""A run that diverges stops with a sentence, and what it wrote before stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

from mmdysample.engine.checkpoint import install_safe_loading, load_checkpoint_file
from mmdysample.engine.errors import UserError
from mmdysample.engine.nonfinite import StopOnNonFiniteLoss
from tests.engine.test_runner import Model, names, runner, validated
from tests.engine.toy import write_config

NAN = float("nan")
KEEP_ONE = dict(checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=1))
ITERATIONS = 9  # three epochs of three


class Diverging(Model):
    """Its losses of the given iterations, counted from 1, are not finite.

    Args:
        weights: so are the gradients, and with them the weights. Otherwise it is as in mixed
            precision, where the gradient scaler skips such a step.
    """

    def __init__(self, iterations, weights: bool = False, value: float = NAN):
        super().__init__()
        self.iterations = set(iterations)
        self.weights = weights
        self.value = value
        self.done = 0

    def forward(self, inputs, mode="tensor"):
        losses = super().forward(inputs, mode)
        if mode == "loss":
            self.done += 1
            if self.done in self.iterations:
                loss = losses["loss"]
                losses["loss"] = loss * self.value if self.weights else loss + self.value
        return losses


def assert_finite(path: Path) -> None:
    for name, value in load_checkpoint_file(str(path))["state_dict"].items():
        assert torch.isfinite(value).all(), name


@pytest.fixture(autouse=True)
def _safe_loading():
    install_safe_loading()


@pytest.mark.parametrize(("first", "value"), [(4, NAN), (6, float("inf"))])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, first, value):
    """From the first or the last iteration of the second epoch on."""
    model = Diverging(range(first, ITERATIONS + 1), weights=True, value=value)
    with pytest.raises(UserError, match=r"layer\.weight of the model is not finite"):
        runner(tmp_path / "w", model=model, default_hooks=KEEP_ONE).train()
    assert names(tmp_path / "w") == ["epoch_1.pth"]
    assert_finite(tmp_path / "w" / "epoch_1.pth")
    assert (tmp_path / "w" / "last_checkpoint").read_text().endswith("epoch_1.pth")


def test_statistics_that_are_not_numbers_are_not_saved(tmp_path):
    model = Diverging(())
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    model.register_buffer("running_mean", torch.tensor([NAN]))
    with pytest.raises(UserError, match="running_mean of the model is not finite"):
        runner(tmp_path / "w", model=model).train()
    assert names(tmp_path / "w") == []


def test_best_checkpoint_is_not_displaced(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.engine.test_runner.Model", lambda: Diverging([4], weights=True))
    with pytest.raises(UserError, match="not finite"):
        validated(tmp_path / "w", [dict(a=1), dict(a=2)], save_best="a", rule="greater")
    assert names(tmp_path / "w") == ["best_a_epoch_1.pth", "epoch_1.pth"]


def test_losses_in_a_row_stop_the_run(tmp_path):
    model = Diverging(range(4, ITERATIONS + 1))
    with pytest.raises(UserError, match=r"last 5 iterations .* at iteration 8") as stop:
        runner(tmp_path / "w", model=model).train()
    assert str(tmp_path / "w") in str(stop.value)
    assert model.done == 8


def test_fewer_in_a_row_do_not(tmp_path):
    model = Diverging([1, 2, 3, 4, 6, 7, 8, 9])
    runner(tmp_path / "w", model=model).train()
    assert model.done == ITERATIONS
    assert_finite(tmp_path / "w" / "epoch_3.pth")


def test_written_at_such_a_loss_displaces_nothing(tmp_path):
    """The last iteration of the second epoch; the third one's checkpoint replaces both."""
    for epochs, left in ((2, ["epoch_1.pth", "epoch_2.pth"]), (3, ["epoch_3.pth"])):
        loop = dict(by_epoch=True, max_epochs=epochs)
        work_dir = tmp_path / str(epochs)
        runner(work_dir, model=Diverging([6]), default_hooks=KEEP_ONE, train_cfg=loop).train()
        assert names(work_dir) == left


def test_end_of_a_run_without_checkpoints(tmp_path):
    rare = dict(checkpoint=dict(type="CheckpointHook", interval=10, save_last=False))
    with pytest.raises(UserError, match="not finite at iteration 9"):
        runner(tmp_path / "w", model=Diverging([9], weights=True), default_hooks=rare).train()


def test_patience_of_the_config(tmp_path):
    hook = dict(type="StopOnNonFiniteLoss", patience=2)
    made = runner(tmp_path / "w", model=Diverging([2, 3]), custom_hooks=[hook])
    assert sum(isinstance(each, StopOnNonFiniteLoss) for each in made.hooks) == 1
    with pytest.raises(UserError, match="last 2 iterations"):
        made.train()


def test_status_and_sentence_of_the_tool(zygote, toy_data, tmp_path):
    pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")
    from tests.engine.zygote import TRAIN

    config = write_config("segmentor", toy_data, tmp_path / "c.py")
    huge = "optim_wrapper.optimizer.lr=1e30"
    run = zygote.run(TRAIN, config, "--work-dir", "w", "--cfg-options", huge, cwd=tmp_path)
    assert run.status == 2, run.stderr
    assert "Traceback" not in run.stderr
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert "not finite at iteration" in line and "lower the learning rate" in line
    assert list((tmp_path / "w").glob("*.pth*")) == []
