"""The Runner of the tools: runs on what is there, and continues as if it had never stopped."""

from __future__ import annotations

import inspect
import os
import re
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.registry import LOOPS, RUNNERS
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from torch import nn

from mmdysample.engine.atomic import replacing
from mmdysample.engine.checkpoint import CheckpointError
from mmdysample.engine.checks import check_batches
from mmdysample.engine.data import check_evaluator
from mmdysample.engine.errors import doing
from mmdysample.engine.hooks import LosslessCheckpointHook, SeedEachIteration
from mmdysample.engine.resume import read_position
from mmdysample.engine.seeding import PlacedBatchSampler, PlacedDataset


class RestartableRunner(Runner):
    """A Runner whose run, killed and resumed, ends with the weights of an unkilled one.

    It differs from mmengine's in that
    - samples and iterations are seeded by their place in the run (seeding.py, hooks.py);
    - a resumed run skips the batches that were trained on without loading them;
    - checkpoints are written whole or not at all, and old ones deleted only afterwards;
    - a checkpoint of another model and an empty data set are errors.
    """

    def register_hooks(self, default_hooks=None, custom_hooks=None) -> None:
        super().register_hooks(default_hooks, custom_hooks)
        self.register_hook(SeedEachIteration())

    def register_hook(self, hook: Any, priority: Any = None) -> None:
        names = ("CheckpointHook", "mmengine.CheckpointHook", CheckpointHook)
        if isinstance(hook, dict) and hook.get("type") in names:
            hook = {**hook, "type": LosslessCheckpointHook}
        super().register_hook(hook, priority)

    @staticmethod
    def build_dataloader(dataloader, seed=None, diff_rank_seed=False):
        if isinstance(dataloader, dict):
            dataset = dict(type=PlacedDataset, dataset=dataloader["dataset"])
            dataloader = {**dataloader, "dataset": dataset}
        with doing("building a data set and its dataloader"):
            built = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        check_batches(built)
        return built

    def build_val_loop(self, loop):
        check_evaluator(self._val_evaluator, self._val_dataloader)
        return super().build_val_loop(loop)

    def build_test_loop(self, loop):
        check_evaluator(self._test_evaluator, self._test_dataloader)
        return super().build_test_loop(loop)

    def build_train_loop(self, loop):
        position = None
        if self._resume and self._load_from is not None:
            position = read_position(self._load_from)
        if isinstance(self._train_dataloader, dict):
            self._train_dataloader = self._placed(self._train_dataloader, loop, position)
        built = super().build_train_loop(loop)
        positioned = isinstance(built.dataloader.batch_sampler, PlacedBatchSampler)
        if position is not None and positioned and isinstance(built, IterBasedTrainLoop):
            built.dataloader_iterator = _Skipped(built.dataloader_iterator, position.iteration)
        return built

    def _placed(self, dataloader: dict, loop: Any, position) -> dict:
        """Config of a dataloader whose batches know their place and start at ``position``."""
        endless = _counts_iterations(loop)
        skip = 0
        if position is not None:
            skip = position.iteration if endless else position.iterations_into_epoch
        dataloader = dict(dataloader)
        batches = dict(
            type=PlacedBatchSampler,
            seed=self.seed,
            skip=skip,
            endless=endless,
            drop_last=dataloader.pop("drop_last", False),
            batch_sampler=dataloader.pop("batch_sampler", None),
        )
        return {**dataloader, "batch_sampler": batches}

    def wrap_model(self, model_wrapper_cfg, model: nn.Module) -> nn.Module:
        if self.distributed and get_device() == "cpu":
            self.logger.info(
                "Without a GPU, SyncBatchNorm layers are converted to BatchNorm: each process "
                "normalizes with its own statistics."
            )
            model = revert_sync_batchnorm(model)
        return super().wrap_model(model_wrapper_cfg, model)

    def save_checkpoint(self, out_dir, filename, *args, **kwargs) -> None:
        if not is_main_process() or "://" in str(out_dir):
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
            return
        with replacing(os.path.join(out_dir, filename)) as draft:
            super().save_checkpoint(str(draft.parent), draft.name, *args, **kwargs)

    def load_checkpoint(self, filename, map_location="cpu", strict=False, **kwargs):
        if strict:
            return super().load_checkpoint(filename, map_location, strict, **kwargs)
        try:
            return super().load_checkpoint(filename, map_location, True, **kwargs)
        except RuntimeError as error:
            if "do not match exactly" not in str(error):
                raise
            self._check_fit(filename, str(error))
        # A fit that will do, such as another number of classes, is reported as mmengine does.
        return super().load_checkpoint(filename, map_location, False, **kwargs)

    def _check_fit(self, filename: str, mismatch: str) -> None:
        """Refuse a checkpoint that leaves parameters of the model at random.

        Training from another model's weights (``load_from``) may do so, if it fits at all.
        """
        model = self.model.module if is_model_wrapper(self.model) else self.model
        needed = [name for name, _ in model.named_parameters()]
        missing = re.search(r"missing keys in source state_dict: (.*)", mismatch)
        lost = set(missing.group(1).split(", ")) if missing else set()
        lost |= set(re.findall(r"size mismatch for ([^:\s]+):", mismatch))
        left = [name for name in needed if name in lost]
        fine_tuning = isinstance(self._train_loop, BaseLoop) and not self._resume
        if left and (len(left) == len(needed) or not fine_tuning):
            raise CheckpointError(
                f"checkpoint {filename} does not fit this model: {len(left)} of its {len(needed)} "
                f"parameters are missing there or have another shape, such as {left[0]}"
            )


def build_runner(cfg: Config) -> Runner:
    """The runner that the config names, else a `RestartableRunner`."""
    if "runner_type" in cfg:
        return RUNNERS.build(cfg)
    return RestartableRunner.from_cfg(cfg)


def _counts_iterations(loop: Any) -> bool:
    """Whether a training loop, or the one of a config, draws batches without end."""
    if isinstance(loop, BaseLoop):
        return isinstance(loop, IterBasedTrainLoop)
    if "type" not in loop:
        return not loop["by_epoch"]
    kind = loop["type"]
    if isinstance(kind, str):
        with LOOPS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    return inspect.isclass(kind) and issubclass(kind, IterBasedTrainLoop)


class _Skipped:
    """Stands in for the iterator of an iteration-based loop that was positioned already.

    mmengine's loop draws, and with it loads, every batch of the run so far; the sampler has
    skipped them, so the first ``count`` draws are answered with nothing.
    """

    def __init__(self, iterator: Any, count: int):
        self._iterator = iterator
        # The loop of the onedl fork calls `skip_iter` instead of drawing.
        self._count = 0 if hasattr(iterator, "skip_iter") else count

    def skip_iter(self, count: int) -> None:
        """Nothing to do: the sampler has skipped them."""

    def __iter__(self) -> _Skipped:
        return self

    def __next__(self) -> Any:
        if self._count > 0:
            self._count -= 1
            return None
        return next(self._iterator)
