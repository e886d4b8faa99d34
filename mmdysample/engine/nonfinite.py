"""A run whose loss or weights are no longer finite numbers stops, and keeps what was good."""

from __future__ import annotations

import math

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from mmdysample.errors import UserError

_ADVICE = "lower the learning rate or clip gradients (optim_wrapper.clip_grad)"


@HOOKS.register_module()
class StopOnNonFiniteLoss(Hook):
    """Stop training after ``patience`` losses in a row that are NaN or infinite.

    A single one may be harmless: in mixed precision the gradient scaler skips a step whose
    gradients are not finite, and the weights stay as they were. Weights that are not finite never
    recover, so `check_weights` looks at them before each checkpoint and when training ends.

    The loss is read on the host in each iteration. That waits for the GPU no longer than mmengine
    does already, whose RuntimeInfoHook reads it before this hook.

    Args:
        patience: losses in a row. To change it, give the hook in ``custom_hooks`` of the config.
    """

    def __init__(self, patience: int = 5):
        self.patience = patience
        self.streak = 0

    def before_train(self, runner) -> None:
        self.streak = 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        loss = (outputs or {}).get("loss")
        if loss is None or math.isfinite(torch.as_tensor(loss).item()):
            self.streak = 0
            return
        self.streak += 1
        if self.streak >= self.patience:
            raise UserError(
                f"the loss of the last {self.streak} iterations was not finite, so training stops "
                f"at iteration {runner.iter + 1}: {_ADVICE}; checkpoints in {runner.work_dir} are "
                "from before"
            )

    def after_train(self, runner) -> None:
        check_weights(runner)


def check_weights(runner) -> None:
    """Raise UserError if a parameter of the runner's model is not finite.

    Buffers count as well, such as the statistics of BatchNorm, but may hold infinities: masks do.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    wrong = [name for name, p in model.named_parameters() if not torch.isfinite(p.detach()).all()]
    wrong += [name for name, buffer in model.named_buffers() if torch.isnan(buffer).any()]
    if wrong:
        raise UserError(
            f"{wrong[0]} of the model is not finite at iteration {runner.iter}, so training stops "
            f"and no checkpoint is written: {_ADVICE}; checkpoints in {runner.work_dir} are from "
            "before"
        )


def loss_is_finite(runner) -> bool:
    """Whether the last loss was finite in all processes; to be asked in each of them."""
    streaks = [hook.streak for hook in runner.hooks if isinstance(hook, StopOnNonFiniteLoss)]
    longest = torch.tensor(max(streaks, default=0))
    all_reduce(longest, op="max")
    return longest.item() == 0
