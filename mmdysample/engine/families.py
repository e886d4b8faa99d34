"""What differs between mmdet and mmseg when a model is tested: output, drawing, augmentation.

A config belongs to the family that its ``default_scope`` names.
"""

from __future__ import annotations

import copy
import importlib
import os
from collections.abc import Callable
from typing import NamedTuple

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from mmdysample.engine.atomic import check_writable
from mmdysample.engine.data import data_set_configs
from mmdysample.engine.outputs import check_new, check_new_directory
from mmdysample.errors import UserError


class Family(NamedTuple):
    """One OpenMMLab package.

    Args:
        package: its name, which is the ``default_scope`` of its configs.
        prepare: imports the package and makes the settings of the process that its tools make.
        write_predictions: ``test.py --out``.
        augment: ``test.py --tta``.
        draw: ``test.py --show-dir``, a directory below that of the run unless it is absolute.
    """

    package: str
    prepare: Callable[[], None]
    write_predictions: Callable[[Config, str], None]
    augment: Callable[[Config], None]
    draw: Callable[[Config, str], None]


def family_of(cfg: Config) -> Family:
    """The family of a config; UserError for another or a missing ``default_scope``."""
    scope = cfg.get("default_scope")
    if scope not in FAMILIES:
        raise UserError(
            f"default_scope of the config is {scope!r}, but these tools run configs of "
            f"{' and '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[scope]


def visualization_hook(cfg: Config) -> ConfigDict:
    """The hook that draws predictions, told to draw every image."""
    hook = (cfg.get("default_hooks") or {}).get("visualization")
    if hook is None:
        raise UserError(
            "--show and --show-dir need default_hooks = dict(visualization=...) in the config"
        )
    hook["draw"] = True
    hook["interval"] = 1  # mmseg draws one of fifty
    return hook


def _import(package: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"this config needs {package} ({error}): bash tools/setup_env.sh or "
            f"pip install 'mmdysample[{package}]' installs it"
        ) from error


def _set_test_pipeline(cfg: Config) -> None:
    for dataset in data_set_configs(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.tta_pipeline


# ---------------------------------------------------------------- mmdet


def _prepare_mmdet() -> None:
    _import("mmdet")
    from mmdet.utils import setup_cache_size_limit_of_dynamo

    setup_cache_size_limit_of_dynamo()


def _write_detections(cfg: Config, out: str) -> None:
    """Dump all predictions to one pickle file."""
    if not out.endswith((".pkl", ".pickle")):
        raise UserError(f"--out {out}: mmdet's predictions go to a .pkl or .pickle file")
    check_new(out, "--out", cfg)
    check_writable(out, "--out")
    evaluators = cfg.test_evaluator
    if not isinstance(evaluators, (list, tuple)):
        evaluators = [evaluators]
    importlib.import_module("mmdysample.engine.dump")
    cfg.test_evaluator = [*evaluators, dict(type="DumpWholeDetResults", out_file_path=out)]


def _augment_detections(cfg: Config) -> None:
    """The config's tta_model and tta_pipeline, else the image and its mirror image."""
    masks = [
        name
        for part in (cfg.model, cfg.model.get("roi_head") or {})
        for name in ("panoptic_fusion_head", "mask_head")
        if part.get(name) is not None
    ]
    if masks and "tta_model" not in cfg:
        raise UserError(
            f"--tta merges boxes alone, and this model has a {masks[0]}: test it without, or "
            "set a tta_model in the config that merges what it predicts"
        )
    if "tta_model" not in cfg:
        print_log("--tta: the config has no tta_model, boxes are merged by NMS at IoU 0.5")
        nms = dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100)
        cfg.tta_model = dict(type="DetTTAModel", tta_cfg=nms)
    if "tta_pipeline" not in cfg:
        print_log("--tta: the config has no tta_pipeline, each image is also flipped")
        plain = data_set_configs(cfg.test_dataloader.dataset)[0].pipeline
        cfg.tta_pipeline = [*copy.deepcopy(plain[:-1]), _FLIP]
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    _set_test_pipeline(cfg)


def _draw_detections(cfg: Config, directory: str) -> None:
    check_new_directory(directory, "--show-dir", cfg)
    visualization_hook(cfg)["test_out_dir"] = directory


_META_KEYS = (
    "img_id",
    "img_path",
    "ori_shape",
    "img_shape",
    "scale_factor",
    "flip",
    "flip_direction",
)
_FLIP = dict(
    type="TestTimeAug",
    transforms=[
        [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)],
        [dict(type="PackDetInputs", meta_keys=_META_KEYS)],
    ],
)


# ---------------------------------------------------------------- mmseg


def _write_label_images(cfg: Config, out: str) -> None:
    """Write a label image for each image into a directory."""
    check_new_directory(out, "--out", cfg)
    if not isinstance(cfg.test_evaluator, dict):
        raise UserError("--out needs a test_evaluator that is one dict, not a list")
    # In mmseg rank 0 makes it, while another process may have a label image to write already.
    try:
        os.makedirs(out, exist_ok=True)
    except OSError as error:
        reason = os.strerror(error.errno).lower()
        raise UserError(f"--out {out} cannot be made: {reason}") from error
    cfg.test_evaluator["output_dir"] = out
    cfg.test_evaluator["keep_results"] = True


def _augment_segmentation(cfg: Config) -> None:
    missing = [name for name in ("tta_model", "tta_pipeline") if name not in cfg]
    if missing:
        raise UserError(f"--tta needs {' and '.join(missing)} in the config")
    _set_test_pipeline(cfg)
    cfg.tta_model.module = cfg.model
    cfg.model = cfg.tta_model


def _draw_segmentation(cfg: Config, directory: str) -> None:
    check_new_directory(directory, "--show-dir", cfg)
    hook = visualization_hook(cfg)
    if hook.get("type") != "SegVisualizationHook":
        raise UserError(
            "--show-dir needs default_hooks.visualization of type 'SegVisualizationHook' in the "
            f"config, not {hook.get('type')!r}"
        )
    importlib.import_module("mmdysample.engine.draw")
    hook.update(type="SegDrawingHook", test_out_dir=directory)


FAMILIES = {
    "mmdet": Family(
        package="mmdet",
        prepare=_prepare_mmdet,
        write_predictions=_write_detections,
        augment=_augment_detections,
        draw=_draw_detections,
    ),
    "mmseg": Family(
        package="mmseg",
        prepare=lambda: _import("mmseg"),
        write_predictions=_write_label_images,
        augment=_augment_segmentation,
        draw=_draw_segmentation,
    ),
}
