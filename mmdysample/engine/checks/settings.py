"""Settings of a wrong name, type or range, which mmengine hands on to where nothing says so."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any

from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.runner import FlexibleRunner, Runner
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from mmdysample.engine.checks.parts import A_SLIP, LOADERS, METRIC, Part, package_of
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
# Arguments of a DataLoader in a config that mmengine takes for itself.
_OF_MMENGINE = ("dataset", "num_batch_per_epoch")
_NEED_PANOPTICAPI = ("CocoPanopticMetric", "LoadPanopticAnnotations")


def check_top_level(cfg: Config, options: Iterable[str] = ()) -> None:
    """Raise UserError for a key at the top that is a known one with a slip of the pen.

    A config may have other keys, which are its own variables; ``options``, keys of
    ``--cfg-options``, may not: setting what nothing reads is a mistake.
    """
    for option in options:
        top = option.partition(".")[0]
        if top not in cfg and top not in READ_KEYS:
            raise UserError(
                f"--cfg-options {option}: the config has no {top!r}"
                f"{did_you_mean(top, READ_KEYS.union(cfg))}"
            )
        if top in cfg and top not in READ_KEYS:
            places = [f"{place}{option[len(top) :]}" for place in _places_of(cfg, top)]
            if places:
                raise UserError(
                    f"--cfg-options {option}: {top!r} is a variable, which the config has used "
                    f"already: set {' and '.join(places)}"
                )
    for key in sorted(set(cfg) - READ_KEYS.union(VARIABLES)):
        close = difflib.get_close_matches(key, READ_KEYS, n=1, cutoff=A_SLIP)
        if close:
            raise UserError(
                f"nothing reads {key!r} of the config: did you mean {close[0]!r}? If it is a "
                "variable of yours, give it another name"
            )


def _places_of(cfg: Config, variable: str) -> list[str]:
    """Where the value of a variable of the config stands in what is read; numbers may be chance."""
    wanted = cfg[variable]
    if not isinstance(wanted, (Mapping, list, tuple, str)) or not wanted:
        return []
    found = []

    def look(place: str, value: Any) -> None:
        if type(value) is type(wanted) and value == wanted:
            found.append(place)
        elif isinstance(value, Mapping):
            for key, one in value.items():
                look(f"{place}.{key}", one)
        elif isinstance(value, (list, tuple)):
            for index, one in enumerate(value):
                look(f"{place}.{index}", one)

    for key in cfg:
        if key in READ_KEYS:
            look(key, cfg[key])
    return found


def check_settings(cfg: Config) -> None:
    """Raise UserError for common settings of a wrong type or range."""
    for loader in LOADERS:
        if isinstance(cfg.get(loader), Mapping):
            _check_loader(loader, cfg[loader])
    for place, (fits, accepted) in _ACCEPTED.items():
        value = _at(cfg, place)
        if value is not None and not fits(value):
            raise UserError(f"{place} in the config must be {accepted}, got {value!r}")


def _check_loader(name: str, settings: Mapping) -> None:
    if "dataset" not in settings:
        raise UserError(
            f"{name} of the config has no dataset, only {', '.join(settings) or 'nothing'}"
        )
    taken = {*inspect.signature(DataLoader.__init__).parameters, *_OF_MMENGINE} - {"self"}
    for key in settings:
        if key not in taken:
            raise UserError(f"{name} has no setting {key!r}{did_you_mean(key, taken)}")
    if settings.get("num_workers", 0) == 0:
        for key in ("persistent_workers", "prefetch_factor"):
            if settings.get(key):
                raise UserError(
                    f"{name} has {key}={settings[key]!r}, which needs num_workers of at least 1: "
                    f"with num_workers=0 leave {key} out"
                )


def check_batches(loader: DataLoader) -> None:
    """Raise UserError for a dataloader that drops what there is: one batch that is not full."""
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    endless = not isinstance(sampler, (DefaultSampler, RandomSampler, SequentialSampler))
    if endless or len(loader) > 0 or len(loader.dataset) == 0:
        return
    size = getattr(loader.batch_sampler, "batch_size", None)
    raise UserError(
        f"the data set has {len(loader.dataset)} samples, and drop_last=True leaves no batch of "
        f"batch_size={size} in each process: set drop_last=False or a smaller batch_size"
    )


def _at(cfg: Config, place: str) -> Any:
    """The value of ``a.b.c``, None if there is none."""
    value: Any = cfg
    for name in place.split("."):
        value = value.get(name) if isinstance(value, (dict, Config)) else None
    return value


def _integer(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


_COUNT = (lambda value: _integer(value, 1), "a whole number of at least 1")
_COUNT_OR_NONE = (lambda value: _integer(value, 0), "a whole number of at least 0")
_LENGTH = (
    # As mmengine does, which makes it a whole number.
    lambda value: _integer(
        int(value) if isinstance(value, float) and value.is_integer() else value, 1
    ),
    _COUNT[1],
)
_SEED = (
    lambda value: _integer(value, 0) and value < 2**32,
    "a whole number of at least 0 and below 2**32",
)
_NUMBER = (_number, "a number of at least 0")
_INTERVAL = (lambda value: _integer(value, -1), "a whole number, -1 for never")
_ACCEPTED = {
    **{
        f"{loader}.{name}": accepted
        for loader in LOADERS
        for name, accepted in (("batch_size", _COUNT), ("num_workers", _COUNT_OR_NONE))
    },
    "train_cfg.max_epochs": _LENGTH,
    "train_cfg.max_iters": _LENGTH,
    "train_cfg.val_interval": _LENGTH,
    "optim_wrapper.optimizer.lr": _NUMBER,
    "optim_wrapper.optimizer.weight_decay": _NUMBER,
    "randomness.seed": _SEED,
    "default_hooks.checkpoint.interval": _INTERVAL,
    "default_hooks.checkpoint.max_keep_ckpts": (_INTERVAL[0], "a whole number, -1 for all"),
    "default_hooks.logger.interval": _COUNT,
}
# What an evaluator can be asked for: its argument, and the names. mmseg's asks after training.
_OF_PIXELS = ("iou_metrics", ("mIoU", "mDice", "mFscore"))
_METRICS = {
    "CocoMetric": ("metric", ("bbox", "segm", "proposal", "proposal_fast")),
    "IoUMetric": _OF_PIXELS,
    "BoundaryIoUMetric": _OF_PIXELS,
}


def check_panopticapi(parts: list[Part]) -> None:
    """Raise UserError for what mmdet loads or measures with panopticapi, if that is missing."""
    if find_spec("panopticapi") is not None:
        return
    for part in parts:
        name = getattr(part.cls, "__name__", "")
        if name in _NEED_PANOPTICAPI and package_of(part.cls) == "mmdet":
            raise UserError(
                f"{part.place}: {name} needs panopticapi, which is not installed: use "
                "LoadPanopticSegments, PanopticQualityMetric and PanopticLocalVisualizer of "
                "mmdysample, as the configs in configs/panoptic_fpn do, or derive yours from one "
                "of them"
            )


def check_metrics(parts: list[Part]) -> None:
    """Raise UserError for a metric that an evaluator does not know."""
    for part in parts:
        if part.kind is not METRIC or getattr(part.cls, "__name__", "") not in _METRICS:
            continue
        argument, known = _METRICS[part.cls.__name__]
        asked = part.settings.get(argument) or ()
        for name in [asked] if isinstance(asked, str) else asked:
            if name not in known:
                raise UserError(
                    f"{part.place}: {argument} of {part.cls.__name__} is {name!r}"
                    f"{did_you_mean(name, known)}; it measures {', '.join(known)}"
                )


def check_save_best(cfg: Config, parts: list[Part]) -> None:
    """Raise UserError for a ``save_best`` that no evaluator of the config measures.

    Decided where all of its evaluators are known here.
    """
    chosen = _at(cfg, "default_hooks.checkpoint.save_best")
    evaluators = [part for part in parts if part.kind is METRIC]
    measured: set[str] = set()
    for part in evaluators:
        names = _MEASURED.get(getattr(part.cls, "__name__", ""))
        if names is None or part.settings.get("classwise") or part.settings.get("metric_items"):
            return
        prefix = part.settings.get("prefix") or getattr(part.cls, "default_prefix", None)
        measured |= {f"{prefix}/{name}" if prefix else name for name in names(part.settings)}
    for name in [chosen] if isinstance(chosen, str) else chosen or ():
        if evaluators and name != "auto" and name not in measured:
            raise UserError(
                f"default_hooks.checkpoint.save_best: {name!r} is not measured"
                f"{did_you_mean(name, measured)}; val_evaluator measures "
                f"{', '.join(sorted(measured))}, and 'auto' takes the first"
            )


def _of_boxes(settings: Mapping) -> list[str]:
    metrics = settings.get("metric", "bbox")
    names = []
    for metric in [metrics] if isinstance(metrics, str) else metrics:
        if metric == "proposal_fast":
            names += [f"AR@{number}" for number in (100, 300, 1000)]
        elif metric == "proposal":
            names += [f"AR@{number}" for number in (100, 300, 1000)]
            names += [f"AR_{size}@1000" for size in "sml"]
        else:
            names += [f"{metric}_mAP{end}" for end in ("", "_50", "_75", "_s", "_m", "_l")]
    return names


def _of_pixels(settings: Mapping) -> list[str]:
    metrics = settings.get("iou_metrics", ["mIoU"])
    names = {
        "mIoU": ("mIoU", "mAcc"),
        "mDice": ("mDice", "mAcc"),
        "mFscore": ("mFscore", "mPrecision", "mRecall"),
    }
    metrics = [metrics] if isinstance(metrics, str) else metrics
    return ["aAcc", *(name for metric in metrics for name in names.get(metric, ()))]


_MEASURED = {
    "CocoMetric": _of_boxes,
    "IoUMetric": _of_pixels,
    "BoundaryIoUMetric": lambda settings: [*_of_pixels(settings), "bIoU"],
    "PanopticQualityMetric": lambda settings: [
        f"{name}{end}" for name in ("PQ", "SQ", "RQ") for end in ("", "_th", "_st")
    ],
}
