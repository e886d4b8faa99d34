"""What differs between mmdet and mmseg when a model is tested: output, drawing, augmentation.

A config belongs to the family that its ``default_scope`` names.
"""

from __future__ import annotations

import copy
import importlib
import math
import os
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import METRICS, MODELS

from mmdysample.atomic import check_writable
from mmdysample.engine.checks.parts import arguments
from mmdysample.engine.data import data_set_configs
from mmdysample.engine.lookup import class_of
from mmdysample.engine.outputs import check_new, check_new_directory
from mmdysample.errors import UserError
from mmdysample.ops.checks import finite_number
from mmdysample.upsample_model import original_model

_META_KEYS = (
    *("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    *("flip", "flip_direction"),
)
# Of a pixel of a depth map that is written.
GREATEST_VALUE = 2**16 - 1
_FLIP = dict(
    type="TestTimeAug",
    transforms=[
        [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)],
        [dict(type="PackDetInputs", meta_keys=_META_KEYS)],
    ],
)


def import_family(cfg: Config) -> str:
    """Import the package that a config belongs to, and return its name.

    Raises:
        UserError: it is not installed, or it is none that these tools run configs of.
    """
    scope = cfg.get("default_scope")
    if scope not in ("mmdet", "mmseg"):
        raise UserError(
            f"default_scope of the config is {scope!r}, but these tools run configs of mmdet and "
            "mmseg"
        )
    try:
        importlib.import_module(scope)
    except ImportError as error:
        raise UserError(
            f"this config needs {scope} ({error}): bash tools/setup_env.sh or "
            f"pip install 'mmdysample[{scope}]' installs it"
        ) from error
    return scope


def write_predictions(cfg: Config, out: str) -> None:
    """``test.py --out``: a pickle file of mmdet's predictions, a directory of mmseg's images."""
    evaluators = cfg.test_evaluator
    if cfg.default_scope == "mmdet":
        if not out.endswith((".pkl", ".pickle")):
            raise UserError(f"--out {out}: mmdet's predictions go to a .pkl or .pickle file")
        check_new(out, "--out", cfg)
        check_writable(out, "--out")
        importlib.import_module("mmdysample.engine.dump")
        evaluators = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]
        cfg.test_evaluator = [*evaluators, dict(type="DumpWholeDetResults", out_file_path=out)]
        return
    check_new_directory(out, "--out", cfg)
    if not isinstance(evaluators, dict):
        raise UserError("--out needs a test_evaluator that is one dict, not a list")
    metric = class_of(METRICS, evaluators.get("type"), "mmseg")
    taken, others = arguments(metric) if metric is not None else ({}, True)
    if "depth_scale_factor" in taken:
        # What a meter is in the files; mmseg's default of 1 leaves nothing behind the point.
        evaluators.setdefault("depth_scale_factor", 1000.0)
        if metric.__name__ != "DepthErrorMetric":  # which clamps depths to what fits
            _check_depths_fit(
                cfg.get("model") or {}, evaluators, taken.get("max_depth_eval", math.inf)
            )
    # In mmseg rank 0 makes it, while another process may have a label image to write already.
    _make_directory(out, "--out")
    evaluators.update(output_dir=out)
    if others or "keep_results" in taken:
        evaluators.update(keep_results=True)


def _check_depths_fit(model: Mapping, metric: Mapping, max_depth_eval: float) -> None:
    """Raise UserError if a depth map would not fit into 16 bits: mmseg's DepthMetric wraps it.

    Args:
        model, metric: their settings.
        max_depth_eval: where ``metric`` has none.
    """
    factor = metric["depth_scale_factor"]
    name = "--out: depth_scale_factor of test_evaluator"
    finite_number(name, factor, "a finite number above 0", above=0)
    head = model.get("decode_head") or {}
    cls = class_of(MODELS, head.get("type"), "mmseg")
    predicted = head.get("max_depth", arguments(cls)[0].get("max_depth") if cls else None)
    limits = {
        "max_depth of model.decode_head": predicted,
        "max_depth_eval of test_evaluator": metric.get("max_depth_eval", max_depth_eval),
    }
    known = {
        name: limit
        for name, limit in limits.items()
        if isinstance(limit, (int, float)) and limit < math.inf
    }
    for name, limit in known.items():
        if limit * factor > GREATEST_VALUE:
            raise UserError(
                f"--out: {name} is {limit} m, and times depth_scale_factor={factor} that does not "
                "fit into the 16 bits of a depth map: set test_evaluator.depth_scale_factor to "
                f"{math.floor(GREATEST_VALUE / limit)} or less"
            )
    if not known:
        raise UserError(
            f"--out: the config does not say how great depths can be, and above "
            f"{GREATEST_VALUE / factor} m, with depth_scale_factor={factor}, they would not fit "
            "into the 16 bits of a depth map: set test_evaluator.max_depth_eval"
        )


def visualization_hook(cfg: Config) -> ConfigDict:
    """The hook that draws predictions, told to draw every image."""
    hook = (cfg.get("default_hooks") or {}).get("visualization")
    if hook is None:
        raise UserError(
            "--show and --show-dir need default_hooks = dict(visualization=...) in the config"
        )
    hook.update(draw=True, interval=1)  # mmseg draws one of fifty
    return hook


def draw(cfg: Config, directory: str) -> None:
    """``test.py --show-dir``; a relative ``directory`` is below that of the run."""
    check_new_directory(directory, "--show-dir", cfg)
    hook = visualization_hook(cfg)
    hook["test_out_dir"] = directory
    if cfg.default_scope == "mmseg":
        if hook.get("type") != "SegVisualizationHook":
            raise UserError(
                "--show-dir needs default_hooks.visualization of type 'SegVisualizationHook' in "
                f"the config, not {hook.get('type')!r}"
            )
        importlib.import_module("mmdysample.engine.draw")
        hook["type"] = "SegDrawingHook"
    if os.path.isabs(directory):
        _make_directory(directory, "--show-dir")


def _make_directory(path: str, option: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        reason = os.strerror(error.errno).lower()
        raise UserError(f"{option} {path} cannot be made: {reason}") from error


def augment(cfg: Config) -> None:
    """``test.py --tta``: the config's tta_model and tta_pipeline, for mmdet with defaults."""
    if cfg.default_scope == "mmdet":
        _set_default_augmentation(cfg)
    elif _estimates_depth(cfg.model):
        raise UserError(
            "--tta merges the classes that a segmentor predicts, and this model predicts depth: to "
            "average with the mirror image set model.test_cfg=dict(mode='slide_flip', "
            "crop_size=(H, W), stride=(H, W)) with H, W of the test images"
        )
    if _measures_mattes(cfg.get("test_evaluator")):
        raise UserError(
            "--tta merges scores of classes, and a matting model predicts alphas: test it without"
        )
    missing = [name for name in ("tta_model", "tta_pipeline") if name not in cfg]
    if missing:
        raise UserError(f"--tta needs {' and '.join(missing)} in the config")
    for dataset in data_set_configs(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict({**cfg.tta_model, "module": cfg.model})


def _estimates_depth(model: dict) -> bool:
    cls = class_of(MODELS, original_model(model).get("type"), "mmseg")
    return any(base.__name__ == "DepthEstimator" for base in getattr(cls, "__mro__", ()))


def _measures_mattes(evaluator: Any) -> bool:
    if not isinstance(evaluator, Mapping):
        return False
    cls = class_of(METRICS, evaluator.get("type"), "mmseg")
    return any(base.__name__ == "MattingMetric" for base in getattr(cls, "__mro__", ()))


def _set_default_augmentation(cfg: Config) -> None:
    """The image and its mirror image, whose boxes are merged."""
    parts = (cfg.model, cfg.model.get("roi_head") or {})
    names = ("panoptic_fusion_head", "mask_head")
    masks = [name for part in parts for name in names if part.get(name) is not None]
    if "tta_model" not in cfg:
        if masks:
            raise UserError(
                f"--tta merges boxes alone, and this model has a {masks[0]}: test it without, or "
                "set a tta_model in the config that merges what it predicts"
            )
        print_log("--tta: the config has no tta_model, boxes are merged by NMS at IoU 0.5")
        nms = dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100)
        cfg.tta_model = dict(type="DetTTAModel", tta_cfg=nms)
    if "tta_pipeline" not in cfg:
        print_log("--tta: the config has no tta_pipeline, each image is also flipped")
        plain = data_set_configs(cfg.test_dataloader.dataset)[0].pipeline
        cfg.tta_pipeline = [*copy.deepcopy(plain[:-1]), _FLIP]
