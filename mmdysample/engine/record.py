"""What a training was started with: run.json beside its logs, which tools/results.py reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from mmdysample.atomic import write_text

FILE_NAME = "run.json"


def record_start(runner: Runner, config_path: str) -> None:
    """Write the record into the directory of a training's logs; the first process does it."""
    cfg = runner.cfg
    if runner.rank != 0:
        return
    checkpoint = Path(cfg.load_from) if cfg.get("resume") else None
    if checkpoint is not None and checkpoint.parent.resolve() == Path(cfg.work_dir).resolve():
        checkpoint = Path(checkpoint.name)  # a work dir may be moved
    record = {
        "config": Path(config_path).stem,
        "processes": runner.world_size,
        "resumed_from": None if checkpoint is None else str(checkpoint),
        "settings": plain(cfg),
    }
    write_text(Path(runner.log_dir, FILE_NAME), json.dumps(record, indent=1))


def plain(cfg: Config) -> dict[str, Any]:
    """A config as JSON has it: lists for tuples, text for keys and for what JSON does not know."""
    return json.loads(json.dumps(cfg.to_dict(), default=str, skipkeys=True))
