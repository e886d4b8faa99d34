"""The Runner of the tools: runs on what is there, and continues as if it had never stopped."""

from __future__ import annotations

import inspect
import os
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import LOOPS, RUNNERS
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from torch import nn

from mmdysample.atomic import replacing
from mmdysample.engine.checkpoint import load_checkpoint
from mmdysample.engine.checks import check_batches
from mmdysample.engine.data import check_evaluator
from mmdysample.engine.errors import doing
from mmdysample.engine.hooks import LeaveOutFunctions, WriteFirstCheckpointHook
from mmdysample.engine.lookup import class_of
from mmdysample.engine.nonfinite import StopOnNonFiniteLoss, check_weights
from mmdysample.engine.resume import Position, check_what_is_left, read_position, restore
from mmdysample.engine.seeding import PlacedBatchSampler, SeedEachIteration, loaded_by_place
from mmdysample.engine.weights import check_averages, load_weights, weights_of
from mmdysample.errors import UserError


class RestartableRunner(Runner):
    """A Runner whose run, killed and resumed, ends with the weights of an unkilled one.

    It differs from mmengine's in that
    - samples and iterations are seeded by their place in the run (seeding.py);
    - a resumed run skips the batches that were trained on without loading them;
    - checkpoints are written whole or not at all, and old ones deleted only afterwards;
    - weights that are not finite are not saved, and a run whose loss stays so is stopped;
    - a checkpoint of another model and an empty data set are errors.
    """

    # Path and contents of a checkpoint that was read but not yet loaded.
    _pending_checkpoint: tuple[str | None, dict] = (None, {})

    def register_hooks(self, default_hooks=None, custom_hooks=None) -> None:
        super().register_hooks(default_hooks, custom_hooks)
        self.register_hook(SeedEachIteration())
        self.register_hook(LeaveOutFunctions())
        if not any(isinstance(hook, StopOnNonFiniteLoss) for hook in self.hooks):
            self.register_hook(StopOnNonFiniteLoss())

    def register_hook(self, hook: Any, priority: Any = None) -> None:
        names = ("CheckpointHook", "mmengine.CheckpointHook", CheckpointHook)
        if isinstance(hook, dict) and hook.get("type") in names:
            hook = {**hook, "type": WriteFirstCheckpointHook}
        super().register_hook(hook, priority)

    @staticmethod
    def build_dataloader(dataloader, seed=None, diff_rank_seed=False):
        with doing("building a data set and its dataloader"):
            if isinstance(dataloader, dict):
                # mmengine copies a data set that was built already, so it builds this one itself.
                dataset = dict(type=loaded_by_place, dataset=dataloader["dataset"])
                dataloader = {**dataloader, "dataset": dataset}
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
        if self._resume and not self._load_from:
            raise UserError("resume=True needs load_from=CHECKPOINT, which train.py --resume finds")
        position = None
        if self._resume:
            position = read_position(self._read(self._load_from), self._load_from)
            if position.seed is not None:
                self._seed = position.seed
        from_config = isinstance(self._train_dataloader, dict)
        if from_config:
            self._train_dataloader = self._placed(self._train_dataloader, loop, position)
        built = super().build_train_loop(loop)
        if position is not None:
            check_what_is_left(built, position, self._load_from)
            if from_config and isinstance(built, IterBasedTrainLoop):
                built.dataloader_iterator = _SkippingIterator(
                    built.dataloader_iterator, position.iteration
                )
        return built

    def _placed(self, dataloader: dict, loop: Any, position: Position | None) -> dict:
        """Config of a dataloader whose batches know their place and start at ``position``."""
        endless = _counts_iterations(loop)
        skip = 0
        if position is not None:
            skip = position.iteration if endless else position.iterations_into_epoch
        dataloader = dict(dataloader)
        dataloader["batch_sampler"] = dict(
            type=PlacedBatchSampler,
            seed=self.seed,
            skip=skip,
            endless=endless,
            drop_last=dataloader.pop("drop_last", False),
            batch_sampler=dataloader.get("batch_sampler"),
        )
        return dataloader

    def wrap_model(self, model_wrapper_cfg, model: nn.Module) -> nn.Module:
        if self.distributed and get_device() == "cpu":
            self.logger.info(
                "Without a GPU, SyncBatchNorm layers are converted to BatchNorm: each process "
                "normalizes with its own statistics."
            )
            model = revert_sync_batchnorm(model)
            # mmengine would convert them back.
            self.cfg.sync_bn = None
        return super().wrap_model(model_wrapper_cfg, model)

    def save_checkpoint(self, out_dir, filename, *args, **kwargs) -> None:
        check_weights(self)
        if not is_main_process() or "://" in str(out_dir):
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
            return
        with replacing(os.path.join(out_dir, filename)) as draft:
            super().save_checkpoint(str(draft.parent), draft.name, *args, **kwargs)

    def load_checkpoint(self, filename, map_location="cpu", strict=False) -> dict:
        """Load the weights of a checkpoint that fits; ``map_location`` is ignored.

        When fine-tuning (load_from without --resume), part of the model may be missing in it.
        """
        checkpoint = self._read(filename)
        self._pending_checkpoint = (None, {})
        checkpoint["state_dict"] = weights_of(checkpoint, filename)
        if self._resume:
            check_averages(self.model, checkpoint, filename)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        fine_tuning = isinstance(self._train_loop, BaseLoop) and not self._resume
        partly = fine_tuning and not strict
        load_weights(self.model, checkpoint, filename, partly=partly, logger=self.logger)
        self.logger.info(f"Load checkpoint from {filename}")
        self._has_loaded = True
        return checkpoint

    def resume(self, filename: str) -> None:
        """Continue the run of a checkpoint; resume.py says what is taken from it."""
        checkpoint = self.load_checkpoint(filename)
        restore(self, checkpoint, filename)
        # It may be referred to elsewhere, and is as large as the model.
        checkpoint.clear()
        self.logger.info(f"resumed epoch: {self.epoch}, iter: {self.iter}")

    def _read(self, filename: str) -> dict:
        """The checkpoint, read once for where it stands and for its weights."""
        if self._pending_checkpoint[0] != filename:
            self._pending_checkpoint = (filename, load_checkpoint(filename))
        return self._pending_checkpoint[1]


def build_runner(cfg: Config, checkpoint: dict | None = None) -> Runner:
    """The runner that the config names, else a `RestartableRunner`.

    Args:
        cfg: a config.
        checkpoint: what the file ``cfg.load_from`` holds, if it was read already.

    Raises:
        UserError: a checkpoint would be loaded by a runner that does so in its own way, such as
            mmengine's FlexibleRunner.
    """
    kind = RUNNERS.get(cfg["runner_type"]) if cfg.get("runner_type") else Runner
    if kind is Runner:
        kind = RestartableRunner
    if not (inspect.isclass(kind) and issubclass(kind, RestartableRunner)):
        if cfg.get("load_from") or cfg.get("resume"):
            raise UserError(
                f"runner_type={cfg['runner_type']!r} of the config takes from a checkpoint what "
                "could run code or delete files: leave runner_type out of the config to load one"
            )
        return RUNNERS.build(cfg)
    runner = kind.from_cfg(cfg)
    if checkpoint is not None:
        runner._pending_checkpoint = (cfg.load_from, checkpoint)
    return runner


def _counts_iterations(loop: Any) -> bool:
    """Whether a training loop, or the one of a config, draws batches without end."""
    if isinstance(loop, BaseLoop):
        return isinstance(loop, IterBasedTrainLoop)
    if "type" not in loop:
        return not loop["by_epoch"]
    kind = class_of(LOOPS, loop["type"])
    return inspect.isclass(kind) and issubclass(kind, IterBasedTrainLoop)


class _SkippingIterator:
    """Yields None for the first ``count`` batches, which were trained on.

    mmengine's loop draws them all, and the sampler has left them out already. The loop of its fork,
    onedl-mmengine, calls ``skip_iter`` of an iterator that has it, in place of drawing.
    """

    def __init__(self, iterator: Any, count: int):
        self._iterator = iterator
        self._count = 0 if hasattr(iterator, "skip_iter") else count

    def skip_iter(self, count: int) -> None:
        """The sampler has skipped them."""

    def __next__(self) -> Any:
        if self._count > 0:
            self._count -= 1
            return None
        return next(self._iterator)
