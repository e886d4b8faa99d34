"""Alpha mattes of single images with their trimaps."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import Compose
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from mmseg.apis import MMSegInferencer
from mmseg.structures import SegDataSample
from torch import nn

from mmdysample.errors import InvalidType, InvalidValue
from mmdysample.images import check_image_file, write_image
from mmdysample.mmseg.matting.loading import check_size, check_trimap, read_color, read_gray
from mmdysample.mmseg.matting.visualizer import MattingLocalVisualizer

_PATH = (str, os.PathLike)


class MattingInferencer(MMSegInferencer):
    """mmseg's MMSegInferencer for matting: images with their trimaps in, alphas out.

    An input is a pair (image, trimap), or a list of pairs; each of the two is the path of a file or
    an array, uint8: an image (H, W, 3), BGR, and a trimap (H, W) of 0, 128 and 255. Arguments and
    results are those of MMSegInferencer: ``predictions`` is the alpha (H, W), uint8, or a list of
    alphas. With ``out_dir`` they are written to ``pred/NAME.png`` and drawings to ``vis/NAME.png``,
    where NAME is that of the image file, or the number of the input.

    Raises:
        InvalidValue: a file cannot be read, an array is no image or trimap, or a trimap is not of
            its image's size.
        InvalidType: an input is no such pair.
    """

    def __call__(self, inputs: Any, *args: Any, batch_size: int = 1, **kwargs: Any) -> Any:
        if batch_size != 1:
            raise InvalidValue(
                f"batch_size={batch_size!r}: a matting model takes images of several sizes one by "
                "one, batch_size=1"
            )
        # All are looked at before the first is predicted, and read again when it is their turn.
        for pair in _pairs(inputs):
            _read(pair)
        return super().__call__(_pairs(inputs), *args, batch_size=1, **kwargs)

    def _inputs_to_list(self, inputs: list) -> list:
        return inputs

    def _init_pipeline(self, cfg: Any) -> Compose:
        """The config's test pipeline, with our reading in the place of what loads files."""
        steps = cfg.test_dataloader.dataset.pipeline
        loading = ("LoadImageFromFile", "Annotation")
        kept = [step for step in steps if not any(part in str(step["type"]) for part in loading)]
        return Compose([_read, *kept])

    def _load_weights_to_model(self, model: nn.Module, checkpoint: dict | None, cfg: Any) -> None:
        model.dataset_meta = dict(classes=None, palette=None)
        if checkpoint is None:
            warnings.warn("no checkpoint is given: the weights are random", stacklevel=2)
        else:
            _load_checkpoint_to_model(model, checkpoint)

    def visualize(
        self,
        inputs: list,
        preds: list[SegDataSample],
        return_vis: bool = False,
        show: bool = False,
        wait_time: float = 0,
        img_out_dir: str = "",
        opacity: float = 0.8,
        with_labels: bool | None = True,
    ) -> list[np.ndarray] | None:
        """Drawings, RGB, of the predictions; opacity and labels have no meaning."""
        if not (return_vis or show or img_out_dir):
            return None
        if not isinstance(self.visualizer, MattingLocalVisualizer):
            raise InvalidValue(
                "drawing alphas needs visualizer=dict(type='MattingLocalVisualizer') in the config"
            )
        drawings = []
        for pair, sample, name in zip(inputs, preds, _names(inputs), strict=True):
            image = _read(pair)["img"][..., ::-1]
            path = os.path.join(img_out_dir, f"{name}.png") if img_out_dir else None
            self.visualizer.add_datasample(
                name, image, sample, show=show, wait_time=wait_time, out_file=path
            )
            drawings.append(self.visualizer.draw_datasample(image, sample))
        return drawings if return_vis else None

    def forward(self, inputs: dict, **kwargs: Any) -> list[SegDataSample]:
        """Predictions on the CPU: those of many large images would fill the device."""
        return [sample.cpu() for sample in super().forward(inputs, **kwargs)]

    def postprocess(
        self,
        preds: list[SegDataSample],
        visualization: list[np.ndarray] | None,
        return_datasample: bool = False,
        pred_out_dir: str = "",
    ) -> Any:
        """Alphas and drawings of all inputs; of a single input not in lists."""
        alphas = [sample.pred_alpha.data[0].numpy() for sample in preds]
        if pred_out_dir:
            names = _names([(sample.get("img_path"), None) for sample in preds])
            for alpha, name in zip(alphas, names, strict=True):
                write_image(Path(pred_out_dir, f"{name}.png"), alpha)
        if return_datasample:
            return preds[0] if len(preds) == 1 else preds
        results = dict(predictions=alphas, visualization=visualization or [])
        if len(alphas) == 1:
            results = {key: value[0] if value else value for key, value in results.items()}
        return results


def _pairs(inputs: Any) -> list:
    """A list of pairs, also where a single pair is given."""
    if not isinstance(inputs, (list, tuple)):
        raise InvalidType(
            "a matting model takes a pair of an image and its trimap, or a list of such pairs, "
            f"got {_shorten(inputs)}"
        )
    alone = len(inputs) == 2 and not any(isinstance(each, (list, tuple)) for each in inputs)
    return [inputs] if alone else list(inputs)


def _read(pair: Any) -> dict:
    """The image and the trimap of a pair, as a sample for the rest of the pipeline."""
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise InvalidType(
            f"each input must be a pair of an image and its trimap, got {_shorten(pair)}"
        )
    image, trimap = pair
    sample: dict[str, Any] = {}
    for path, key, kind in ((image, "img_path", "image"), (trimap, "trimap_path", "trimap")):
        if isinstance(path, _PATH):
            sample[key] = os.fspath(path)
            check_image_file(sample[key], kind)
    sample["img"] = _array(image, "image", 3) if "img_path" not in sample else read_color(image)
    sample["trimap"] = (
        read_gray(trimap, "trimap") if "trimap_path" in sample else _array(trimap, "trimap", 2)
    )
    name = f"the trimap {sample.get('trimap_path', 'given as an array')}"
    whose = f"its image {sample.get('img_path', 'given as an array')}"
    check_size(sample["trimap"], name, sample["img"].shape, whose)
    check_trimap(sample["trimap"], name)
    sample["ori_shape"] = sample["img"].shape[:2]
    return sample


def _array(value: Any, kind: str, dimensions: int) -> np.ndarray:
    wanted = "(H, W, 3)" if dimensions == 3 else "(H, W)"
    if not isinstance(value, np.ndarray):
        raise InvalidType(f"the {kind} must be a path or an array {wanted}, got {_shorten(value)}")
    right = value.ndim == dimensions and (dimensions == 2 or value.shape[2] == 3)
    if value.dtype != np.uint8 or not right or not value.size:
        raise InvalidValue(
            f"the {kind} must be an array {wanted} of uint8, got {value.shape} of {value.dtype}"
        )
    return value


def _names(pairs: list) -> Iterator[str]:
    """A name of its own for each pair: that of the image file, or the number of the pair."""
    taken: set[str] = set()
    for number, (image, _) in enumerate(pairs):
        stem = Path(image).stem if isinstance(image, _PATH) else f"{number:08d}"
        numbered = (f"{stem}_{index}" for index in itertools.count(2))
        name = next(name for name in itertools.chain([stem], numbered) if name not in taken)
        taken.add(name)
        yield name


def _shorten(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.shape}"
    return f"{value!r:.60}"
