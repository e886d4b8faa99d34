"""What a user can get wrong in a config, checked before anything is built, read or written."""

from __future__ import annotations

from mmengine.config import Config

from mmdysample.engine.checks.bases import check_hosts, check_lists
from mmdysample.engine.checks.classes import check_classes
from mmdysample.engine.checks.depth import check_depth_settings
from mmdysample.engine.checks.parts import check_keys, find_parts
from mmdysample.engine.checks.settings import (
    check_batches,
    check_checkpoint_names,
    check_metrics,
    check_top_level,
    check_whole_numbers,
)

__all__ = [
    "TESTING",
    "TRAINING",
    "check_batches",
    "check_checkpoint_names",
    "check_config",
    "check_lists",
    "check_top_level",
    "check_whole_numbers",
]

_BOTH = (
    *("model", "data_preprocessor", "default_hooks", "custom_hooks", "visualizer"),
    "log_processor",
)
TRAINING = (
    *_BOTH,
    *("train_cfg", "train_dataloader", "optim_wrapper", "param_scheduler"),
    *("val_cfg", "val_dataloader", "val_evaluator"),
)
TESTING = (*_BOTH, "test_cfg", "test_dataloader", "test_evaluator")


def check_config(cfg: Config, used: tuple[str, ...]) -> None:
    """Check the keys ``used`` of a config: `TRAINING` or `TESTING`.

    Raises:
        UserError: the first error, and what would be accepted.
    """
    parts = find_parts(cfg, used)
    check_hosts(cfg, parts)
    check_keys(parts)
    check_classes(parts)
    check_metrics(cfg, parts)
    check_depth_settings(parts)
