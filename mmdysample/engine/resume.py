"""Which checkpoint a run continues from."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath

from mmengine.config import Config
from mmengine.logging import MessageHub, print_log

from mmdysample.engine.checkpoint import (
    CheckpointError,
    check_checkpoint_file,
    load_checkpoint,
    load_checkpoint_file,
)
from mmdysample.engine.errors import is_rank_zero
from mmdysample.engine.restore import read_position
from mmdysample.errors import UserError


def plan_resume(cfg: Config, resume: str | None) -> dict | None:
    """Write into ``cfg`` what ``--resume`` means, and read the checkpoint that is continued from.

    Args:
        cfg: config with its work_dir.
        resume: None (the config decides), ``'auto'`` for the newest whole checkpoint of the work
            dir, or a checkpoint's path. With ``'auto'`` and no checkpoint the run starts anew.

    Returns:
        what the checkpoint of ``cfg.load_from`` holds, so that it is read once; None if the run is
        not a resumed one.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, or not one of a training run.
    """
    if resume is not None:
        cfg.resume = True
    if not cfg.get("resume"):
        if cfg.get("load_from") and "://" not in cfg.load_from:
            check_checkpoint_file(cfg.load_from)
        _check_starts_anew(cfg)
        return None
    named = cfg.get("load_from") if resume is None else resume
    if named in (None, "auto"):
        path, checkpoint = newest_checkpoint(cfg)
    else:
        path, checkpoint = named, load_checkpoint(named)
    if path is None:
        cfg.resume = False
        _say(f"--resume: no checkpoint in {cfg.work_dir}, so the run starts from its beginning")
        return None
    position = read_position(checkpoint, path)
    cfg.load_from = path
    _say(f"--resume: from {path} (epoch {position.epoch}, iteration {position.iteration})")
    if position.seed is not None:
        _keep_seed(cfg, position.seed)
    return checkpoint


def _check_starts_anew(cfg: Config) -> None:
    """Raise UserError if a run would replace the checkpoints of an earlier one."""
    directory, pattern = checkpoint_names(cfg)
    names = sorted(path.name for path in directory.glob("*") if pattern.fullmatch(path.name))
    if names:
        raise UserError(
            f"{directory} holds {names[0]} of an earlier run: --resume continues that run; to "
            "start anew choose another --work-dir, or remove the earlier checkpoints"
        )


def _keep_seed(cfg: Config, seed: int) -> None:
    randomness = dict(cfg.get("randomness") or {})
    configured = randomness.get("seed")
    if configured not in (None, seed):
        _say(f"--resume: seed {seed} of the checkpoint is used, not the config's {configured}")
    cfg.randomness = {**randomness, "seed": seed}


def newest_checkpoint(cfg: Config) -> tuple[str, dict] | tuple[None, None]:
    """Path and contents of the newest whole checkpoint of a run, or None if it has none.

    That is the one that ``last_checkpoint`` names, unless a kill came between a later checkpoint
    and its mention there. Of the path in ``last_checkpoint`` the name counts: the work dir may be a
    copy. Damaged ones are passed over with a message.

    Raises:
        CheckpointError: there are checkpoints, but no whole one.
    """
    directory, pattern = checkpoint_names(cfg)
    note = Path(cfg.work_dir) / "last_checkpoint"
    noted, noted_at = None, 0.0
    if note.is_file():
        name = PurePath(note.read_bytes()[:4096].decode(errors="replace").strip()).name
        noted = str(directory / name) if pattern.fullmatch(name) else None
        noted_at = note.stat().st_mtime

    found = {}
    for path in directory.iterdir() if directory.is_dir() else ():
        match = pattern.fullmatch(path.name)
        if match and path.is_file():
            found[str(path)] = (path.stat().st_mtime, int(match.group(1)))
    by_age = sorted(found, key=found.__getitem__, reverse=True)
    noted_step = found.get(noted, (0.0, -1))[1]
    later = [p for p in by_age if found[p][0] > noted_at and found[p][1] > noted_step]
    candidates = list(dict.fromkeys([*later, *([noted] if noted else []), *by_age]))

    for path in candidates:
        try:
            return path, load_checkpoint_file(path)
        except CheckpointError as error:
            _say(f"--resume: passed over, {error}")
    if candidates:
        raise CheckpointError(f"none of the checkpoints in {directory} can be read")
    return None, None


def can_continue(cfg: Config) -> bool:
    """Whether a run that was stopped has a checkpoint: one it started from or one of its own."""
    if cfg.get("resume"):
        return True
    written = MessageHub.get_current_instance().get_info("last_ckpt")
    return written is not None and os.path.exists(written)


def checkpoint_names(cfg: Config) -> tuple[Path, re.Pattern]:
    """Directory and names of the checkpoints that the config's hook writes."""
    hook = cfg.get("default_hooks", {}).get("checkpoint") or {}
    template = hook.get("filename_tmpl") or (
        "epoch_{}.pth" if hook.get("by_epoch", True) else "iter_{}.pth"
    )
    work_dir = Path(os.path.abspath(cfg.work_dir))
    out_dir = Path(os.path.abspath(hook.get("out_dir") or work_dir))
    directory = work_dir if out_dir == work_dir else out_dir / work_dir.name
    return directory, name_pattern(template)


def name_pattern(template: str, before: str = "") -> re.Pattern:
    """What matches the names that a checkpoint hook makes, with the step as its group."""
    pattern = re.escape(before + template).replace(re.escape("{}"), r"(\d{1,18})", 1)
    return re.compile(pattern, re.ASCII)


def _say(message: str) -> None:
    # The run's own logger does not exist yet.
    if is_rank_zero():
        print_log(message)
