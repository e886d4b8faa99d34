"""Hooks that make a run restartable: what it writes is whole, what it draws depends on the
iteration alone."""

from __future__ import annotations

import os

from mmengine.dist import get_rank, is_main_process
from mmengine.hooks import CheckpointHook, Hook

from mmdysample.engine.atomic import remove_abandoned_drafts, write_text
from mmdysample.engine.errors import add_hint
from mmdysample.engine.nonfinite import loss_is_finite
from mmdysample.engine.resume import name_pattern
from mmdysample.engine.seeding import seed_everything


class SeedEachIteration(Hook):
    """Seed all generators from (seed, rank, iteration) before each training iteration.

    What the model draws (stochastic depth, sampled boxes) then needs no saved state to be drawn
    again after a restart.
    """

    priority = "VERY_HIGH"

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        # A fourth number, which samples (seed, epoch, draw) do not have.
        seed_everything(runner.seed, get_rank(), runner.iter, 1)


class LosslessCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook that deletes the old only when the new is on the disk.

    mmengine deletes first: a kill or a full disk while the new one is being written would leave
    nothing with ``max_keep_ckpts=1``.

    Which older checkpoints a resumed run has is seen from the names in its own directory, never
    from a checkpoint: only files there, by the names that the hook gives them, are deleted.
    """

    def before_train(self, runner) -> None:
        super().before_train(runner)
        # Of a run that starts anew, whatever is there is somebody else's.
        self._resumed_at = runner.epoch if self.by_epoch else runner.iter
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids.extend(self._steps_there())
        if is_main_process() and "://" not in self.out_dir:
            name = self.filename_tmpl.format("*")
            for pattern in (name, f"best_*_{name}"):
                remove_abandoned_drafts(self.out_dir, pattern)

    def _save_checkpoint_with_step(self, runner, step, meta) -> None:
        outdated = None
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated = self.keep_ckpt_ids.popleft()
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))

        name = self.filename_tmpl.format(step)
        path = self.file_backend.join_path(self.out_dir, name)
        self.last_ckpt = path
        runner.message_hub.update_info("last_ckpt", path)
        try:
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            if is_main_process():
                write_text(os.path.join(runner.work_dir, "last_checkpoint"), path)
        except OSError as error:
            error.filename = path
            add_hint(error, "the checkpoints before it are untouched")
            raise
        # What is written while the loss is not finite may be of no use, and displaces nothing.
        # All processes ask, though the files that they see, and so what is outdated, may differ.
        finite = loss_is_finite(runner)
        if outdated is not None and finite:
            name = self.filename_tmpl.format(outdated)
            self._delete(self.file_backend.join_path(self.out_dir, name))

    def _save_best_checkpoint(self, runner, metrics) -> None:
        if not self.save_best or not metrics:
            return
        if "auto" in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        before = self._best_paths()
        # Without knowing of an earlier one, mmengine deletes none.
        self._set_best_paths(dict.fromkeys(before))
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            after = self._best_paths()
            self._set_best_paths({key: after.get(key) or before.get(key) for key in after | before})
        for key, path in before.items():
            if path and after.get(key) not in (None, path):
                self._delete(path)
                runner.logger.info(f"The previous best checkpoint {path} is removed")

    def _best_paths(self) -> dict[str, str | None]:
        """The best checkpoint so far, by score."""
        if len(self.key_indicators) == 1:
            known = {self.key_indicators[0]: self.best_ckpt_path}
        else:
            known = dict(self.best_ckpt_path_dict)
        return {key: path or self._best_there(key) for key, path in known.items()}

    def _set_best_paths(self, paths: dict[str, str | None]) -> None:
        if len(self.key_indicators) == 1:
            (self.best_ckpt_path,) = paths.values()
        else:
            self.best_ckpt_path_dict.update(paths)

    def _best_there(self, key: str) -> str | None:
        prefix = f"best_{key}_".replace("/", "_")
        steps = self._steps_there(prefix)
        if not steps:
            return None
        return os.path.join(self.out_dir, prefix + self.filename_tmpl.format(steps[-1]))

    def _steps_there(self, prefix: str = "") -> list[int]:
        """Steps of the checkpoints in the hook's directory that a resumed run has written."""
        if not self._resumed_at or "://" in self.out_dir or not os.path.isdir(self.out_dir):
            return []
        pattern = name_pattern(self.filename_tmpl, prefix)
        matches = [pattern.fullmatch(name) for name in os.listdir(self.out_dir)]
        steps = sorted(int(match[1]) for match in matches if match)
        return [step for step in steps if step <= self._resumed_at]

    def _delete(self, path: str) -> None:
        if is_main_process() and self.file_backend.isfile(path):
            self.file_backend.remove(path)
