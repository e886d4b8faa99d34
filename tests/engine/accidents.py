"""A hook for the toy configs: the accident that a run has to survive."""

from __future__ import annotations

import os
import signal

from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Accident(Hook):
    """SIGKILL the run, its workers included.

    Args:
        iteration: after how many iterations of training.
        writing: halfway through writing the next checkpoint instead of at once.
        rank: of the process that it happens to.
    """

    priority = "LOWEST"

    def __init__(self, iteration: int, writing: bool = False, rank: int = 0):
        self.iteration = iteration
        self.writing = writing
        self.rank = rank

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration and runner.rank == self.rank:
            if self.writing:
                LocalBackend.put = _write_half
            else:
                kill_all()


def kill_all() -> None:
    os.killpg(0, signal.SIGKILL)


def _write_half(self, obj: bytes, filepath: str) -> None:
    with open(filepath, "wb") as file:
        file.write(obj[: len(obj) // 2])
        file.flush()
        kill_all()


def accident(**settings) -> str:
    """Lines that add the accident to a toy config."""
    return (
        f'\ncustom_imports["imports"].append("{__name__}")\n'
        f'custom_hooks = [dict(type="mmengine.Accident", **{settings!r})]\n'
    )
