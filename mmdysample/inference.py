"""Trained models on single images, alike for mmdet and mmseg.

from mmdysample.inference import open_inferencer

inferencer = open_inferencer("faster-rcnn_r50_fpn_dysample_1x_coco", "epoch_12.pth")
inferencer("images/", out_dir="predictions")
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.backend_bases import FigureCanvasBase
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.infer import BaseInferencer
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import mmdysample
import mmdysample.engine.config  # mmengine's list_models knows "mmdysample" then
from mmdysample.engine.checkpoint import (
    check_checkpoint_file,
    install_safe_loading,
    load_checkpoint,
)
from mmdysample.engine.checks.parts import check_parts
from mmdysample.engine.data import data_set_configs
from mmdysample.engine.families import import_family
from mmdysample.engine.outputs import check_new
from mmdysample.engine.weights import load_weights
from mmdysample.errors import InvalidType, InvalidValue, UserError
from mmdysample.images import check_image_file
from mmdysample.registry import did_you_mean


def open_inferencer(
    model: str, weights: str | None = None, device: str | None = None, **settings: Any
) -> BaseInferencer:
    """mmdet's DetInferencer or mmseg's MMSegInferencer, whichever the config is for.

    The first is extended by panoptic segmentation without panopticapi, the second by matting, whose
    inputs are pairs of an image and its trimap. Both take no weights but those that fit, and write
    nothing over their input.

    Args:
        model: a config file, or the name of a config of this project. (mmengine's inferencers also
            do without one, and run the text of a config that is in the checkpoint.)
        weights: a checkpoint that fits the model; without one the weights are random.
        device: such as 'cpu'; by default the accelerator that is there.
        settings: further arguments of the inferencer.

    Raises:
        UserError: there is no such model or checkpoint, it does not fit, or the config is of
            another package.
    """
    if not isinstance(model, (str, os.PathLike)):
        raise InvalidType(
            f"model={model!r:.80}: a config file or the name of a config is needed; the config in "
            "a checkpoint is a program, which is not run"
        )
    path = str(model) if os.path.isfile(model) else config_path(str(model))
    cfg = Config.fromfile(path, import_custom_modules=False)
    family = import_family(cfg)
    if weights is not None:
        weights = os.fspath(weights)
        if "://" not in weights:
            check_checkpoint_file(weights)
    install_safe_loading()
    inferencer = _inferencer_class(family, weights, _takes_trimaps(cfg))
    return inferencer(model=path, weights=weights, device=device, **settings)


def config_path(name: str) -> str:
    """The file of a config of this project, by its name.

    ``BaseInferencer.list_models("mmdysample")`` of mmengine lists the names.

    Raises:
        UserError: there is no config of this name.
    """
    package = Path(mmdysample.__file__).parent
    # A checkout has beside the package what an installed package has in .mim.
    checkout = package.parent
    root = checkout if (checkout / "model-index.yml").is_file() else package / ".mim"
    paths = {path.stem: str(path) for path in root.glob("configs/[!_]*/*.py")}
    if name not in paths:
        raise UserError(
            f"{name!r} is neither a config file nor a model of mmdysample"
            f"{did_you_mean(name, paths)}"
        )
    return paths[name]


def load_model(cfg: Config, checkpoint: str, device: str | None = None) -> nn.Module:
    """The model of a config with a checkpoint's weights, ready to predict.

    Raises:
        UserError: a part of the model is unknown or has a wrong key; the checkpoint cannot be read,
            or is of another model; the device is not there.
    """
    try:
        place = torch.device(device or get_device())
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {device} cannot be used: {reason}") from error
    _enter_family(cfg)
    check_parts(cfg, ("model",))
    loaded = load_checkpoint(checkpoint)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    load_weights(model, loaded, checkpoint)
    model.cfg = cfg
    return model.to(place).eval()


def load_input(cfg: Config, image_path: str, trimap_path: str | None = None) -> dict[str, Any]:
    """An image through the config's test pipeline: ``inputs`` (3, H, W) and ``data_samples``.

    Args:
        cfg: whose test pipeline it is; steps that load annotations are left out.
        image_path: the image file.
        trimap_path: the trimap file, only for matting models.

    Raises:
        UserError: a file cannot be read; a matting model's trimap is missing, or another model is
            given one.
    """
    read_image(image_path)
    dataset = data_set_configs(cfg.test_dataloader.dataset)[0]
    steps = [step for step in dataset.pipeline if "Annotation" not in str(step["type"])]
    needs_trimap = any("Trimap" in str(step["type"]) for step in steps)
    if needs_trimap and trimap_path is None:
        raise UserError(
            f"the matting model needs a trimap beside the image {image_path}: an image of the same "
            "size, 0 where background is known, 255 where foreground is, 128 elsewhere (--trimap)"
        )
    if trimap_path is not None and not needs_trimap:
        raise UserError(
            f"the trimap {trimap_path} is for a matting model, and the config's test pipeline "
            "loads none"
        )
    sample = dict(img_path=image_path, img_id=0)
    if trimap_path is not None:
        check_image_file(trimap_path, "trimap")
        sample["trimap_path"] = trimap_path
    _enter_family(cfg)
    return Compose(steps)(sample)


@torch.no_grad()
def predict(model: nn.Module, data: dict[str, Any]) -> Any:
    """The data sample with predictions that ``model`` makes of :func:`load_input`'s result."""
    return model.test_step(pseudo_collate([data]))[0]


def read_image(path: str) -> np.ndarray:
    """(H, W, 3), uint8, BGR; UserError if there is no readable image."""
    check_image_file(path)
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"the image {path} cannot be read: it is damaged or in no known format")
    return image


def check_figure_path(path: str, cfg: Config) -> None:
    """Raise UserError unless matplotlib can write a new figure there, away from the data."""
    known = FigureCanvasBase.get_supported_filetypes()
    directory, name = os.path.split(os.path.abspath(path))
    if os.path.splitext(name)[1][1:].lower() not in known:
        raise UserError(f"--out {path}: the name must end in one of .{', .'.join(sorted(known))}")
    if not os.path.isdir(directory) or not os.access(directory, os.W_OK):
        raise UserError(
            f"--out {path}: the directory {directory} does not exist or is not writable"
        )
    check_new(path, "--out", cfg)


def _enter_family(cfg: Config) -> None:
    import_family(cfg)
    init_default_scope(cfg.default_scope)


def _takes_trimaps(cfg: Config) -> bool:
    """Whether the config is of a matting model: its test pipeline loads trimaps."""
    found = data_set_configs((cfg.get("test_dataloader") or {}).get("dataset"))
    steps = [step for dataset in found for step in dataset.get("pipeline", ())]
    return any("LoadTrimap" in str(step["type"]) for step in steps)


def _inferencer_class(
    package: str, weights: str | None, takes_trimaps: bool
) -> type[BaseInferencer]:
    if takes_trimaps:
        from mmdysample.mmseg.matting.inferencer import MattingInferencer as Upstream
    elif package == "mmdet":
        from mmdysample.mmdet.panoptic.inferencer import PanopticInferencer as Upstream
    else:
        from mmseg.apis import MMSegInferencer as Upstream

    class Inferencer(Upstream):
        __doc__ = Upstream.__doc__

        def _load_weights_to_model(self, model, checkpoint, cfg):
            if checkpoint is not None:
                load_weights(model, checkpoint, weights)
                meta = _classes_and_palette(checkpoint.get("meta"))
                # They are loaded, there are none left for upstream's method.
                checkpoint = dict(state_dict=model.state_dict(), meta=meta)
            super()._load_weights_to_model(model, checkpoint, cfg)

        def __call__(self, inputs, *args, out_dir="", **settings):
            if not takes_trimaps:
                inputs = _plain_paths(inputs)
                _check_images(self._inputs_to_list(inputs), inputs)
            if out_dir:
                named = {settings.get("img_out_dir", "vis"), settings.get("pred_out_dir", "pred")}
                _check_out_directories(out_dir, named)
                _check_keeps_input(inputs, out_dir, {"vis", "preds", "pred", *named})
            return super().__call__(inputs, *args, out_dir=out_dir, **settings)

    return Inferencer


def _classes_and_palette(meta: Any) -> dict:
    """Class names, if they are such, in today's place for them; with colors of their number."""
    meta = meta if isinstance(meta, dict) else {}
    found = meta.get("dataset_meta", meta)
    found = found if isinstance(found, dict) else {}
    named = {key.lower(): value for key, value in found.items() if isinstance(key, str)}
    classes = named.get("classes")
    if not isinstance(classes, (list, tuple)) or not all(isinstance(n, str) for n in classes):
        return {}
    try:
        colors = np.asarray(named.get("palette"), np.uint8).reshape(len(classes), 3)
    except (TypeError, ValueError, OverflowError):
        # mmseg would take those of Cityscapes, for another number of classes.
        colors = np.random.default_rng(0).integers(0, 256, (len(classes), 3))
    return dict(dataset_meta=dict(classes=tuple(classes), palette=colors.tolist()))


def _plain_paths(inputs: Any) -> Any:
    """Inputs whose paths are strings, the only kind of path that upstream takes."""
    if isinstance(inputs, (list, tuple)):
        return [_plain_paths(each) for each in inputs]
    return os.fspath(inputs) if isinstance(inputs, os.PathLike) else inputs


def _check_images(images: list, inputs: Any) -> None:
    """Raise UserError unless each of ``images`` can be read.

    Args:
        images: files, addresses and arrays, as upstream lists ``inputs``.
        inputs: what the caller gave: one of these, a directory or a list.
    """
    if not images:
        where = f"the directory {inputs}" if isinstance(inputs, str) else "the list of inputs"
        raise InvalidValue(f"{where} has no image")
    for image in images:
        if isinstance(image, str):
            if "://" not in image:
                check_image_file(image)
        elif not isinstance(image, np.ndarray):
            raise InvalidType(
                "an input must be the path of an image or of a directory of images, an array "
                f"(H, W, 3) of uint8, BGR, or a list of images, got {image!r:.60}"
            )
        elif image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise InvalidValue(
                "an image given as an array must be (H, W, 3), BGR, uint8 from 0 to 255, got "
                f"{image.shape} of {image.dtype}"
            )


def _check_out_directories(out_dir: str | os.PathLike, names: set[str]) -> None:
    """Raise UserError if ``out_dir`` or one of ``out_dir/NAME`` is no place for a directory."""
    for directory in [Path(out_dir), *(Path(out_dir, name) for name in sorted(names))]:
        # the part of the path that exists
        place = next(each for each in (directory, *directory.absolute().parents) if each.exists())
        if not place.is_dir():
            raise UserError(f"out_dir={str(out_dir)!r}: {place} is not a directory")


def _check_keeps_input(inputs: Any, out_dir: str, names: set[str]) -> None:
    """Raise UserError if an input image is also in a directory ``out_dir/NAME``, written to."""
    read = set()
    for path in _paths(inputs):
        read |= _files(path)
    for name in names:
        written = os.path.join(out_dir, name)
        if _files(written) & read:
            raise UserError(
                f"out_dir={str(out_dir)!r}: predictions would replace input images in {written}, "
                "choose another directory"
            )


def _paths(inputs: Any) -> Iterator[str]:
    """The paths in an inferencer's inputs: a path or an array, or a list of them or of pairs."""
    if isinstance(inputs, (list, tuple)):
        for each in inputs:
            yield from _paths(each)
    elif isinstance(inputs, (str, os.PathLike)):
        yield os.fspath(inputs)


def _files(path: str) -> set[tuple[int, int]]:
    """Device and inode of a file, or of each file in a directory: the same through any link."""
    paths = [path]
    if os.path.isdir(path):
        paths = [os.path.join(path, name) for name in os.listdir(path)]
    found = [os.stat(each) for each in paths if os.path.isfile(each)]
    return {(each.st_dev, each.st_ino) for each in found}
