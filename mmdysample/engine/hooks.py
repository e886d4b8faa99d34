"""Hooks for writing checkpoints: an old one goes only when the new one is on the disk."""

from __future__ import annotations

import os

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook

from mmdysample.atomic import remove_abandoned_drafts, write_text
from mmdysample.engine.nonfinite import loss_is_finite
from mmdysample.engine.resume import name_pattern


class WriteFirstCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook that deletes the old only when the new is on the disk.

    mmengine deletes first: a kill or a full disk while the new one is being written would leave
    nothing with ``max_keep_ckpts=1``. What may be deleted is seen in the hook's own directory, from
    the names that it gives its files, never from a checkpoint.
    """

    def before_train(self, runner) -> None:
        super().before_train(runner)
        self._find_others(runner)
        if is_main_process() and "://" not in self.out_dir:
            name = self.filename_tmpl.format("*")
            for pattern in (name, f"best_*_{name}"):
                remove_abandoned_drafts(self.out_dir, pattern)

    def _find_others(self, runner) -> None:
        """Note which files were there before the run and are none of its own to delete.

        A run that is resumed in this directory takes over the best ones, and of the others the
        newest ``max_keep_ckpts``: the earlier run may have been told to keep more.
        """
        self._others: set[str] = set()
        source = os.path.dirname(os.path.realpath(runner._load_from or ""))
        if runner.iter == 0 or source != os.path.realpath(self.out_dir):
            self._others = self._files()
        elif self.max_keep_ckpts > 0:
            own = self._own(runner.epoch if self.by_epoch else runner.iter)
            self._others = {os.path.basename(path) for path in own[: -self.max_keep_ckpts]}

    def _save_checkpoint_with_step(self, runner, step, meta) -> None:
        name = self.filename_tmpl.format(step)
        self._others.discard(name)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
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
            write_text(os.path.join(runner.work_dir, "last_checkpoint"), self.last_ckpt)
        # What is written while the loss is not finite may be unusable: it deletes no earlier one.
        if self.max_keep_ckpts > 0 and loss_is_finite(runner):
            self._delete(self._own(step)[: -self.max_keep_ckpts])

    def _save_best_checkpoint(self, runner, metrics) -> None:
        if not self.save_best:
            return
        # mmengine deletes the best one that it knows of before it writes the next.
        self._set_best(dict.fromkeys(self.key_indicators))
        super()._save_best_checkpoint(runner, metrics)
        best: dict[str, str | None] = {}
        for key in self.key_indicators:
            prefix = f"best_{key}_".replace("/", "_")
            own = self._own(runner.epoch if self.by_epoch else runner.iter, prefix)
            self._delete(own[:-1])
            best[key] = own[-1] if own else None
        self._set_best(best)

    def _set_best(self, paths: dict[str, str | None]) -> None:
        """Tell mmengine of the best checkpoint by each score; it publishes them, if asked to."""
        if len(paths) == 1:
            (self.best_ckpt_path,) = paths.values()
        else:
            self.best_ckpt_path_dict = paths

    def _own(self, last: int, prefix: str = "") -> list[str]:
        """The hook's checkpoints up to the step ``last``, the newest one at the end."""
        pattern = name_pattern(self.filename_tmpl, prefix)
        found = []
        for name in self._files() - self._others:
            match = pattern.fullmatch(name)
            if match and int(match[1]) <= last:
                found.append((int(match[1]), self.file_backend.join_path(self.out_dir, name)))
        return [path for _, path in sorted(found)]

    def _files(self) -> set[str]:
        if not self.file_backend.isdir(self.out_dir):
            return set()
        return set(self.file_backend.list_dir_or_file(self.out_dir, list_dir=False))

    def _delete(self, paths: list[str]) -> None:
        if is_main_process():
            for path in paths:
                self.file_backend.remove(path)


class LeaveOutFunctions(Hook):
    """Leaves functions out of the state of parameter schedulers: no checkpoint with one is read.

    mmengine's OneCycle schedulers keep the function of their curve, which is the config's anyway.
    """

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        saved = checkpoint.get("param_schedulers", [])
        groups = list(saved.values()) if isinstance(saved, dict) else [saved]
        for state in [state for group in groups for state in group]:
            for key in [key for key, value in state.items() if callable(value)]:
                del state[key]
