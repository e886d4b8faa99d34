"""Which checkpoint a run continues from, and where in the run that is."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from mmengine.logging import MessageHub, print_log

from mmdysample.engine.checkpoint import CheckpointError, check_is_whole, load_checkpoint_file
from mmdysample.engine.errors import is_rank_zero


class Position(NamedTuple):
    """How far a run had come when a checkpoint was written."""

    epoch: int
    iteration: int
    seed: int | None
    #: iterations of an epoch, None if the checkpoint does not say
    epoch_length: int | None

    @property
    def iterations_into_epoch(self) -> int:
        """Iterations done of an epoch that was not finished."""
        if self.epoch_length is None:
            return 0
        return max(0, self.iteration - self.epoch * self.epoch_length)


def plan_resume(cfg: Config, resume: str | None) -> None:
    """Write into ``cfg`` what ``--resume`` means.

    Args:
        cfg: config with its work_dir.
        resume: None (the config decides), ``'auto'`` for the newest whole checkpoint of the work
            dir, or a checkpoint's path. With ``'auto'`` and no checkpoint the run starts anew.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, or not one of a training run.
    """
    if resume is not None:
        cfg.resume = True
    if not cfg.get("resume"):
        if cfg.get("load_from") and "://" not in cfg.load_from:
            check_is_whole(cfg.load_from)
        return
    if resume not in (None, "auto"):
        path: str | None = resume
    elif resume is None and cfg.get("load_from"):
        path = cfg.load_from
    else:
        path = newest_checkpoint(cfg)
    if path is None:
        cfg.resume = False
        _say(f"--resume: no checkpoint in {cfg.work_dir}, so the run starts from its beginning")
        return
    position = read_position(path)
    cfg.load_from = path
    _say(f"--resume: from {path} (epoch {position.epoch}, iteration {position.iteration})")
    if position.seed is not None:
        _keep_seed(cfg, position.seed)


def _keep_seed(cfg: Config, seed: int) -> None:
    randomness = dict(cfg.get("randomness") or {})
    configured = randomness.get("seed")
    if configured not in (None, seed):
        _say(f"--resume: seed {seed} of the checkpoint is used, not the config's {configured}")
    cfg.randomness = {**randomness, "seed": seed}


def read_position(path: str) -> Position:
    """Read how far the run of a checkpoint had come; CheckpointError if it tells nothing."""
    checkpoint = load_checkpoint_file(path, "cpu", lazy=True)
    meta = checkpoint.get("meta")
    if not isinstance(meta, dict) or not {"epoch", "iter"} <= meta.keys():
        raise CheckpointError(
            f"checkpoint {path} does not say how far its run had come: it can be used with "
            "--cfg-options load_from=..., not with --resume"
        )
    if "optimizer" not in checkpoint:
        raise CheckpointError(
            f"checkpoint {path} holds no optimizer state: it can be used with "
            "--cfg-options load_from=..., not with --resume"
        )
    info = checkpoint.get("message_hub", {}).get("runtime_info", {})
    epochs, iterations = info.get("max_epochs"), info.get("max_iters")
    counted = isinstance(epochs, int) and isinstance(iterations, int)
    return Position(
        epoch=meta["epoch"],
        iteration=meta["iter"],
        seed=meta.get("seed"),
        epoch_length=iterations // epochs if counted else None,
    )


def newest_checkpoint(cfg: Config) -> str | None:
    """The newest whole checkpoint of a run, None if it has none.

    That is the one that ``last_checkpoint`` names, unless a kill came between a later checkpoint
    and its mention there. Damaged ones are passed over with a message.

    Raises:
        CheckpointError: there are checkpoints, but no whole one.
    """
    folder, pattern = _checkpoint_names(cfg)
    note = Path(cfg.work_dir) / "last_checkpoint"
    noted = note.read_text().strip() if note.is_file() else ""
    noted_at = note.stat().st_mtime if noted else 0.0

    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        match = pattern.fullmatch(path.name)
        if match:
            found[str(path)] = (path.stat().st_mtime, int(match.group(1)))
    by_age = sorted(found, key=found.__getitem__, reverse=True)
    noted_step = found.get(noted, (0.0, -1))[1]
    later = [p for p in by_age if found[p][0] > noted_at and found[p][1] > noted_step]
    candidates = list(dict.fromkeys([*later, *([noted] if noted else []), *by_age]))

    for path in candidates:
        try:
            check_is_whole(path)
        except CheckpointError as error:
            _say(f"--resume: passed over, {error}")
        else:
            return path
    if candidates:
        raise CheckpointError(f"none of the checkpoints in {folder} can be read")
    return None


def can_continue(cfg: Config) -> bool:
    """Whether a run that was stopped has a checkpoint: one it started from or one of its own."""
    if cfg.get("resume"):
        return True
    written = MessageHub.get_current_instance().get_info("last_ckpt")
    return written is not None and os.path.exists(written)


def command_to_continue(words: list[str], resume: str | None) -> str:
    """A command line with every option that it had, which continues the run that it started.

    Args:
        words: the command line.
        resume: what its ``--resume`` said; None if it has none.
    """
    kept: list[str] = []
    before = ""
    for word in words:
        option = word.partition("=")[0]
        # argparse takes an option's beginning for the option. The checkpoint that it names gives
        # way to the newest one.
        is_resume = len(option) > 2 and "--resume".startswith(option)
        is_its_checkpoint = word == resume and len(before) > 2 and "--resume".startswith(before)
        if not is_resume and not is_its_checkpoint:
            kept.append(word)
        before = word
    return shlex.join([*kept, "--resume"])


def _checkpoint_names(cfg: Config) -> tuple[Path, re.Pattern]:
    """Folder and names of the checkpoints that the config's hook writes."""
    hook = cfg.get("default_hooks", {}).get("checkpoint") or {}
    template = hook.get("filename_tmpl") or (
        "epoch_{}.pth" if hook.get("by_epoch", True) else "iter_{}.pth"
    )
    pattern = re.escape(template).replace(re.escape("{}"), r"(\d+)", 1)
    work_dir = Path(os.path.abspath(cfg.work_dir))
    out_dir = Path(os.path.abspath(hook.get("out_dir") or work_dir))
    folder = work_dir if out_dir == work_dir else out_dir / work_dir.name
    return folder, re.compile(pattern)


def _say(message: str) -> None:
    # The run's own logger does not exist yet.
    if is_rank_zero():
        print_log(message)
