"""Settings that mmengine accepts silently and that fail later."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import BaseMetric
from mmengine.runner import FlexibleRunner, Runner
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from mmdysample.engine.checks.parts import LOADERS, MISSPELT, Part
from mmdysample.errors import UserError
from mmdysample.registry import did_you_mean

# What runners, tools and models look up at the top of a config.
READ_KEYS = frozenset(
    {
        *inspect.signature(Runner.__init__).parameters,
        *inspect.signature(FlexibleRunner.__init__).parameters,
        *("activation_checkpointing", "cudnn_benchmark", "custom_imports", "dist_cfg"),
        *("efficient_conv_bn_eval", "find_unused_parameters", "log_name", "model_wrapper_cfg"),
        *("mp_cfg", "resource_limit", "runner_type", "sync_bn", "tta_model", "tta_pipeline"),
    }
    - {"self", "cfg"}
)
# Variables of OpenMMLab's own configs that resemble them.
VARIABLES = ("train_pipeline", "val_pipeline", "test_pipeline")
# Whole numbers and the least that each can be.
WHOLE_NUMBERS = {
    **{f"{loader}.batch_size": 1 for loader in LOADERS},
    **{f"{loader}.num_workers": 0 for loader in LOADERS},
    **{f"train_cfg.{name}": 1 for name in ("max_epochs", "max_iters", "val_interval")},
    "randomness.seed": 0,
    # -1 is never, or all of them.
    "default_hooks.checkpoint.interval": -1,
    "default_hooks.checkpoint.max_keep_ckpts": -1,
    "default_hooks.logger.interval": 1,
}
# Metrics of pixels, and what each of their `iou_metrics` measures.
IOU_METRICS = ("IoUMetric", "BoundaryIoUMetric")
OF_PIXELS = {
    "mIoU": ("mIoU", "mAcc"),
    "mDice": ("mDice", "mAcc"),
    "mFscore": ("mFscore", "mPrecision", "mRecall"),
}

OF_DEPTH = ("d1", "d2", "d3", "abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog")


def check_top_level(cfg: Config, options: Iterable[str] = ()) -> None:
    """Raise UserError for a key at the top that is a misspelt one.

    A config may have other keys, which are its own variables. ``options``, the keys of
    ``--cfg-options``, may not be among those: the config has used them already.
    """
    for option in options:
        top, dot, below = option.partition(".")
        if top in READ_KEYS:
            continue
        if top not in cfg:
            meant = did_you_mean(top, READ_KEYS.union(cfg))
            raise UserError(f"--cfg-options {option}: the config has no {top!r}{meant}")
        places = [
            f"{place}{dot}{below}"
            for key in READ_KEYS.intersection(cfg)
            for place in _places(key, cfg[key], cfg[top])
        ]
        raise UserError(
            f"--cfg-options {option}: {top!r} is a variable, which the config has used already: "
            f"set {' and '.join(sorted(places)) or 'what it was used for'}"
        )
    for key in sorted(set(cfg) - READ_KEYS.union(VARIABLES)):
        close = difflib.get_close_matches(key, READ_KEYS, n=1, cutoff=MISSPELT)
        if close:
            raise UserError(
                f"nothing reads {key!r} of the config: did you mean {close[0]!r}? If it is a "
                "variable of yours, give it another name"
            )


def _places(place: str, value: Any, wanted: Any) -> Iterator[str]:
    """Where ``wanted`` stands in ``value``, which stands at ``place``; numbers may be chance."""
    if not isinstance(wanted, (Mapping, list, tuple, str)) or not wanted:
        return
    if value == wanted:
        yield place
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _places(f"{place}.{key}", one, wanted)
    elif isinstance(value, (list, tuple)):
        for index, one in enumerate(value):
            yield from _places(f"{place}.{index}", one, wanted)


def check_whole_numbers(cfg: Config) -> None:
    """Raise UserError for a setting that must be a whole number and is not, or is too small."""
    for place, least in WHOLE_NUMBERS.items():
        value = _at(cfg, place)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # such as 1e5
        if value is None or (type(value) is int and value >= least):
            continue
        raise UserError(
            f"{place} in the config must be a whole number of at least {least}, got {value!r}"
        )


def check_checkpoint_names(cfg: Config) -> None:
    """Raise UserError unless ``{}`` in the names of checkpoints is the one place for the step."""
    template = _at(cfg, "default_hooks.checkpoint.filename_tmpl")
    if template is None:
        return
    parts = template.split("{}") if isinstance(template, str) else []
    if len(parts) != 2 or set("{}").intersection("".join(parts)):
        raise UserError(
            "default_hooks.checkpoint.filename_tmpl in the config must have {} once, for the step, "
            f"and no other braces, as in 'epoch_{{}}.pth'; got {template!r}"
        )


def _at(cfg: Config, place: str) -> Any:
    """The value of ``a.b.c``, None if there is none."""
    value: Any = cfg
    for name in place.split("."):
        value = value.get(name) if isinstance(value, (dict, Config)) else None
    return value


def check_batches(loader: DataLoader) -> None:
    """Raise UserError for a dataloader whose only batch is incomplete and dropped."""
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    endless = not isinstance(sampler, (DefaultSampler, RandomSampler, SequentialSampler))
    if endless or len(loader) > 0 or len(loader.dataset) == 0:
        return
    size = getattr(loader.batch_sampler, "batch_size", None)
    raise UserError(
        f"the data set has {len(loader.dataset)} samples, and drop_last=True leaves no batch of "
        f"batch_size={size} in each process: set drop_last=False or a smaller batch_size"
    )


def check_metrics(cfg: Config, parts: list[Part]) -> None:
    """Raise UserError for what would be found missing after the first epoch.

    That is an ``iou_metrics`` that mmseg does not know, and a ``save_best`` that nothing measures.
    """
    metrics = [
        part for part in parts if inspect.isclass(part.cls) and issubclass(part.cls, BaseMetric)
    ]
    for metric in metrics:
        for name in _listed(metric.get("iou_metrics")):
            if metric.cls.__name__ in IOU_METRICS and name not in OF_PIXELS:
                raise UserError(
                    f"{metric.place}: iou_metrics of {metric.cls.__name__} is {name!r}"
                    f"{did_you_mean(name, OF_PIXELS)}; it measures {', '.join(OF_PIXELS)}"
                )
    measured = [_measured(part) for part in metrics if part.place.startswith("val_evaluator")]
    names = set().union(*measured)
    for name in _listed(_at(cfg, "default_hooks.checkpoint.save_best")):
        if all(measured) and names and name not in {"auto", *names}:
            raise UserError(
                f"default_hooks.checkpoint.save_best: {name!r} is not measured"
                f"{did_you_mean(name, names)}; val_evaluator measures "
                f"{', '.join(sorted(names))}, and 'auto' takes the first"
            )


def _measured(metric: Part) -> set[str]:
    """The names of what a metric measures, none if they are not known here."""
    if metric.get("classwise") or metric.get("metric_items"):
        return set()
    names: set[str] = set()
    kind = metric.cls.__name__
    if kind in IOU_METRICS:
        asked = _listed(metric.get("iou_metrics"))
        names = {"aAcc", *(name for one in asked for name in OF_PIXELS[one])}
        names |= {"bIoU"} if kind == "BoundaryIoUMetric" else set()
    elif kind == "CocoMetric":
        asked = _listed(metric.get("metric"))
        if {"bbox", "segm"}.issuperset(asked):
            ends = ("", "_50", "_75", "_s", "_m", "_l")
            names = {f"{one}_mAP{end}" for one in asked for end in ends}
    elif kind in ("DepthErrorMetric", "DepthMetric"):
        names = set(metric.get("depth_metrics") or OF_DEPTH)
    elif kind == "PanopticQualityMetric":
        names = {f"{one}{end}" for one in ("PQ", "SQ", "RQ") for end in ("", "_th", "_st")}
    elif kind == "MattingMetric":
        names = {"SAD", "MSE", "Grad", "Conn"}
    prefix = metric.get("prefix") or metric.cls.default_prefix
    return {f"{prefix}/{name}" if prefix else name for name in names}


def _listed(value: Any) -> list | tuple:
    return [value] if isinstance(value, str) else value or ()
