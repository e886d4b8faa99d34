"""A learned upsampler in any detector or segmentor, by one line of its config:

    _base_ = 'mmdet::yolox/yolox_s_8xb8-300e_coco.py'
    custom_imports = dict(imports=['mmdysample.mmdet'], allow_failed_imports=False)
    model = dict(type='UpsampleModel', of={{_base_.model.type}},
                 upsample_cfg=dict(type='DySample'), targets='neck')

All other keys of ``model`` stay where they are: configs inherit, and ``--cfg-options`` are, as flat
as before. Who looks at ``model.type`` of a config looks at that of `original_model`.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmdysample.errors import InvalidType, InvalidValue
from mmdysample.swap.swap import check_arguments, swap_upsampling

IMAGE_CHANNELS = 3


@MODELS.register_module()
def UpsampleModel(
    *,
    of: str | type,
    upsample_cfg: Mapping | Callable,
    targets: str | Sequence[str] | None = None,
    preserve: bool = False,
    guides: Mapping[str, str] | None = None,
    image_size: int | Sequence[int] = 256,
    **model_cfg: Any,
) -> nn.Module:
    """Build a model and swap its upsampling (`mmdysample.swap_upsampling`).

    Args:
        of: the model's own ``type``.
        upsample_cfg, targets, preserve, guides: as for `mmdysample.swap_upsampling`.
        image_size: of the zeros that the model is run with to find its upsampling, a side or
            (height, width); a multiple of the model's stride.
        model_cfg: the arguments of the model.

    Returns:
        The model: of a detector, what ``extract_feat`` runs is swapped (not its heads), of any
        other model what ``mode='tensor'`` runs.

    Raises:
        ValueError, TypeError: an argument that is not accepted; no upsampling to swap.
    """
    swap = dict(targets=targets, preserve=preserve, guides=guides)
    check_settings(dict(of=of, upsample_cfg=upsample_cfg, image_size=image_size, **swap))
    model = MODELS.build(dict(type=of, **model_cfg))
    if not isinstance(model, BaseModel):
        raise InvalidValue(not_a_model(of))
    example = example_images(model, image_size)
    with _logged_by_mmengine():
        return swap_upsampling(model, upsample_cfg, example, forward=run_features, **swap)


# The last one stands in what is written of a config that imports it.
NAMES = (
    *(UpsampleModel, "UpsampleModel", "mmengine.UpsampleModel"),
    f"{__name__}.UpsampleModel",
)
# What `UpsampleModel` takes for itself, and of that what it needs.
ARGUMENTS = tuple(inspect.signature(UpsampleModel).parameters)[:-1]
NEEDED = {
    "of": "the type of the model whose upsampling is swapped, such as of='YOLOX', which is "
    "of={{_base_.model.type}} in a config with one base",
    "upsample_cfg": "the upsampler, such as upsample_cfg=dict(type='DySample')",
}


@contextlib.contextmanager
def _logged_by_mmengine() -> Iterator[None]:
    """The table of what is swapped goes to the log of the run meanwhile."""
    logger, handler = logging.getLogger("mmdysample"), _Handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print_log(record.getMessage(), "current", record.levelno)


def is_upsample_model(settings: Mapping) -> bool:
    """Whether a model's config has the type `UpsampleModel`."""
    return settings.get("type") in NAMES


def original_model(settings: Mapping) -> Mapping:
    """The config of the model whose upsampling is swapped; another model's config as it is."""
    if not is_upsample_model(settings):
        return settings
    others = {key: value for key, value in settings.items() if key not in ARGUMENTS}
    return {**others, "type": settings.get("of")}


def not_a_model(of: Any) -> str:
    """The sentence for an ``of`` that is a part of a model."""
    return (
        f"UpsampleModel: of={_name(of)!r} is no detector or segmentor; type='UpsampleModel' stands "
        "at the top of model, and targets says which part of it is meant"
    )


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", kind)


def check_settings(settings: Mapping) -> None:
    """Check what can be decided before the model is built.

    Args:
        settings: the arguments that `UpsampleModel` takes for itself.

    Raises:
        ValueError, TypeError: one is missing, or has a value that is not accepted.
    """
    for name, what in NEEDED.items():
        if settings.get(name) is None:
            raise InvalidType(f"UpsampleModel needs {name}: {what}")
    if not (isinstance(settings["of"], str) or callable(settings["of"])):
        raise InvalidType(
            f"UpsampleModel: of must be a type, such as 'YOLOX', got {settings['of']!r}"
        )
    if is_upsample_model(dict(type=settings["of"])):
        raise InvalidValue(
            "UpsampleModel: of='UpsampleModel', for the base's model is one already: leave out "
            "type and of, and set what is to be another, such as model=dict(upsample_cfg=...)"
        )
    check_arguments(
        settings["upsample_cfg"],
        settings.get("targets"),
        settings.get("preserve", False),
        settings.get("guides"),
    )
    image_sides(settings.get("image_size", 256))


def image_sides(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of ``image_size``, a side or both.

    Raises:
        ValueError: it is neither.
    """
    sides = image_size if isinstance(image_size, (list, tuple)) else [image_size] * 2
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise InvalidValue(
            "UpsampleModel: image_size must be a whole number of at least 1, or two of them, "
            f"(height, width), got {image_size!r}"
        )
    return sides[0], sides[1]


def example_images(model: nn.Module, image_size: int | Sequence[int] = 256) -> Tensor:
    """(1, 3, H, W): zeros of ``image_size`` where the model's parameters are."""
    parameter = next(model.parameters())
    shape = (1, IMAGE_CHANNELS, *image_sides(image_size))
    try:
        return torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)
    except (RuntimeError, TypeError) as error:  # more than memory holds, or than 64 bits count
        raise InvalidValue(
            f"image_size is too large, for there is no memory for images of {shape}; the model "
            "needs no larger ones than a few times its stride"
        ) from error


def run_features(model: nn.Module, images: Tensor) -> Any:
    """What a model makes of images alone: a detector's heads need more than them.

    mmdet's detectors are known by their base class, so that mmseg is enough for segmentors.

    Raises:
        ValueError: the model does not take images of this size.
    """
    try:
        if any(base.__name__ == "BaseDetector" for base in type(model).__mro__):
            return model.extract_feat(images)
        return model(images, mode="tensor")
    except Exception as error:
        raise InvalidValue(
            f"the model does not run on images of {tuple(images.shape)} "
            f"({type(error).__name__}: {error}); set image_size to what it takes, "
            "such as a multiple of its stride"
        ) from error
