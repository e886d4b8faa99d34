"""The upsamplers of a model while it predicts: what each was given, and what it made of that."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from mmdysample.errors import UserError
from mmdysample.inference import predict
from mmdysample.upsamplers import Upsampler


class Stage(NamedTuple):
    """One upsampler of a model, its inputs and its result for an image."""

    name: str
    module: nn.Module
    """An `Upsampler`, or what a host has in the place of one."""
    x: Tensor
    """The decoder's map, (1, C, H, W)."""
    guide: Tensor | None
    """The encoder's map, if the model gives it to its upsamplers."""
    out: Tensor

    @property
    def size(self) -> tuple[int, int]:
        return self.x.shape[2], self.x.shape[3]


class Run(NamedTuple):
    """One image through a model."""

    image: np.ndarray
    """(H, W, 3), uint8, RGB: what the model saw, without padding."""
    padded: tuple[int, int]
    """Height and width with padding."""
    stages: list[Stage]
    """In the order of running."""


def run_stages(
    model: nn.Module, data: dict[str, Any], kind: type[Upsampler] = Upsampler, of: str = "the model"
) -> Run:
    """Predict, and record every upsampler of ``kind``.

    Args:
        model: as :func:`mmdysample.inference.load_model` gives it.
        data: as :func:`mmdysample.inference.load_input` gives it.
        kind: a class of upsamplers; `Upsampler` stands for whatever hosts upsample with.
        of: what to call the model in messages.

    Raises:
        UserError: the model has no such upsampler, or runs one more than once for an image.
    """
    names = {
        module: name
        for name, module in model.named_modules()
        if isinstance(module, kind) or (kind is Upsampler and _is_stage(name))
    }
    if not names:
        kinds = "upsampler of mmdysample" if kind is Upsampler else f"{kind.__name__} upsampler"
        raise UserError(f"{of} has no {kinds}, so there is nothing to draw")
    stages: list[Stage] = []
    padded: list[tuple[int, int]] = []

    def record(module: nn.Module, args: tuple, kwargs: dict, out: Tensor) -> None:
        given = dict(zip(("x", "guide"), args, strict=False)) | kwargs
        x, guide = given["x"].detach(), given.get("guide")
        guide = None if guide is None else guide.detach()
        stages.append(Stage(names[module], module, x, guide, out.detach()))

    hooks = [module.register_forward_hook(record, with_kwargs=True) for module in names]
    hooks.append(
        model.data_preprocessor.register_forward_hook(
            lambda module, inputs, result: padded.append(tuple(result["inputs"].shape[2:]))
        )
    )
    try:
        predict(model, data)
    finally:
        for hook in hooks:
            hook.remove()
    if not stages:
        raise UserError(f"{of} runs none of its upsamplers when it predicts")
    if len(stages) > len({stage.name for stage in stages}):
        raise UserError(
            f"stage {stages[0].name} of {of} runs more than once for an image (sliding window?): "
            "with mmseg, --cfg-options model.test_cfg.mode=whole runs it once"
        )
    image = data["inputs"].permute(1, 2, 0).numpy()[..., ::-1]
    return Run(image, padded[0], stages)


def _is_stage(name: str) -> bool:
    """Whether a module is one that a host upsamples with: SegNet's own is no `Upsampler`."""
    *_, parent, own = ["", *name.split(".")]
    return parent == "upsample_modules" and own.isdecimal()


def choose_stage(stages: list[Stage], name: str | None, of: str = "the model") -> Stage:
    """The stage of this name; by default the finest, of these the last.

    Raises:
        UserError: there is none of this name.
    """
    if name is None:
        return max(reversed(stages), key=lambda stage: stage.x[0, 0].numel())
    for stage in stages:
        if stage.name == name:
            return stage
    known = ", ".join(stage.name for stage in stages)
    raise UserError(f"--stage {name}: {of} has no such stage; it has {known}")


def pixels_per_cell(image_size: tuple[int, int], feature_size: tuple[int, int]) -> int:
    """Image pixels that a pixel of the feature map stands for, on each axis.

    Backbones halve a size by rounding up (23 -> 12), so the ratio of the sizes is at most the
    stride, which is the next power of two.
    """
    ratio = max(i / f for i, f in zip(image_size, feature_size, strict=True))
    return int(2 ** np.ceil(np.log2(ratio)))
