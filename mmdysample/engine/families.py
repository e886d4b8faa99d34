"""What differs between mmdet and mmseg when a model is tested: output, pictures, augmentation.

A config belongs to the family that its ``default_scope`` names.
"""

from __future__ import annotations

import copy
import importlib
import os
from abc import ABC, abstractmethod
from typing import ClassVar

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from mmdysample.engine.errors import UserError


class Family(ABC):
    """One OpenMMLab package."""

    package: ClassVar[str]

    def prepare(self) -> None:
        """Import the package and make the settings of the process that its own tools make."""
        try:
            importlib.import_module(self.package)
        except ImportError as error:
            raise UserError(
                f"this config needs {self.package} ({error}): bash tools/setup_env.sh or "
                f"pip install 'mmdysample[{self.package}]' installs it"
            ) from error

    @abstractmethod
    def write_predictions(self, cfg: Config, out: str) -> None:
        """``test.py --out``."""

    @abstractmethod
    def augment(self, cfg: Config) -> None:
        """``test.py --tta``."""

    @abstractmethod
    def save_pictures(self, cfg: Config, folder: str) -> None:
        """``test.py --show-dir``."""

    def show(self, cfg: Config, show: bool, show_dir: str | None, wait_time: float) -> None:
        """``test.py --show --show-dir --wait-time``."""
        hook = (cfg.get("default_hooks") or {}).get("visualization")
        if hook is None:
            raise UserError(
                "--show and --show-dir need default_hooks = dict(visualization=...) in the config"
            )
        hook["draw"] = True
        hook["interval"] = 1  # every image, where mmseg draws one of fifty
        if show:
            hook["show"] = True
            hook["wait_time"] = wait_time
        if show_dir is not None:
            self.save_pictures(cfg, show_dir)


def read_data_sets(dataset: ConfigDict) -> list[ConfigDict]:
    """The data sets that read files, inside of wrappers such as RepeatDataset."""
    if "datasets" in dataset:
        return [inner for each in dataset["datasets"] for inner in read_data_sets(each)]
    return read_data_sets(dataset["dataset"]) if "dataset" in dataset else [dataset]


def _set_test_pipeline(cfg: Config) -> None:
    for dataset in read_data_sets(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.tta_pipeline


class MMDet(Family):
    package = "mmdet"

    def prepare(self) -> None:
        super().prepare()
        from mmdet.utils import setup_cache_size_limit_of_dynamo

        setup_cache_size_limit_of_dynamo()

    def write_predictions(self, cfg: Config, out: str) -> None:
        """Dump all predictions to one pickle file."""
        if not out.endswith((".pkl", ".pickle")):
            raise UserError(f"--out {out}: mmdet's predictions go to a .pkl or .pickle file")
        folder = os.path.dirname(os.path.abspath(out))
        if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
            raise UserError(f"--out {out}: folder {folder} does not exist or is not writable")
        evaluators = cfg.test_evaluator
        if not isinstance(evaluators, (list, tuple)):
            evaluators = [evaluators]
        importlib.import_module("mmdysample.engine.dump")
        cfg.test_evaluator = [*evaluators, dict(type="DumpWholeDetResults", out_file_path=out)]

    def augment(self, cfg: Config) -> None:
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
            plain = read_data_sets(cfg.test_dataloader.dataset)[0].pipeline
            cfg.tta_pipeline = [*copy.deepcopy(plain[:-1]), _FLIP]
        cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
        _set_test_pipeline(cfg)

    def save_pictures(self, cfg: Config, folder: str) -> None:
        cfg.default_hooks.visualization["test_out_dir"] = folder


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


class MMSeg(Family):
    package = "mmseg"

    def write_predictions(self, cfg: Config, out: str) -> None:
        """Write a label image for each picture into a folder."""
        if os.path.exists(out) and not os.path.isdir(out):
            raise UserError(f"--out {out}: mmseg's predictions go to a folder, this is a file")
        if not isinstance(cfg.test_evaluator, dict):
            raise UserError("--out needs a test_evaluator that is one dict, not a list")
        cfg.test_evaluator["output_dir"] = out
        cfg.test_evaluator["keep_results"] = True

    def augment(self, cfg: Config) -> None:
        missing = [name for name in ("tta_model", "tta_pipeline") if name not in cfg]
        if missing:
            raise UserError(f"--tta needs {' and '.join(missing)} in the config")
        _set_test_pipeline(cfg)
        cfg.tta_model.module = cfg.model
        cfg.model = cfg.tta_model

    def save_pictures(self, cfg: Config, folder: str) -> None:
        cfg.visualizer["save_dir"] = folder


FAMILIES: dict[str, type[Family]] = {family.package: family for family in (MMDet, MMSeg)}


def family_of(cfg: Config) -> Family:
    """The family of a config; UserError for another or a missing ``default_scope``."""
    scope = cfg.get("default_scope")
    if scope not in FAMILIES:
        raise UserError(
            f"default_scope of the config is {scope!r}, but these tools run configs of "
            f"{' and '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[scope]()
