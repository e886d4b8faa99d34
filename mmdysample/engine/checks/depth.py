"""Settings of depth estimation that mmseg takes and that give something else, NaN or 255 meters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from mmdysample.engine.checks.parts import Part
from mmdysample.errors import UserError

# Transforms that draw into the maps of an image, and the argument that says what.
FILLING = {
    "RandomRotate": "seg_pad_val",
    "RandomMosaic": "seg_pad_val",
    "RandomCutOut": "seg_fill_in",
}


def check_depth_settings(parts: list[Part]) -> None:
    """Raise UserError for the first setting of depth estimation that does not do what it says."""
    checks: dict[str, Callable[[Part], None]] = {
        "DepthEstimator": _check_estimator,
        "DepthMetric": _check_metric,
        "LoadDepthAnnotation": _check_loading,
    }
    for part in parts:
        for name in _names(part):
            if name in checks:
                checks[name](part)
    for part in parts:
        if "DepthEstimator" in _names(part):
            _check_padding(part, parts)
    loading = [_data_set(part) for part in parts if "LoadDepthAnnotation" in _names(part)]
    for part in parts:
        for name in FILLING.keys() & set(_names(part)):
            # of this data set, or of one that this one wraps
            if any(f"{place}.".startswith(f"{_data_set(part)}.") for place in loading):
                _check_filling(part, name)


def _check_estimator(part: Part) -> None:
    test_cfg = part.get("test_cfg") or {}
    mode = test_cfg.get("mode")
    if mode == "slide":
        raise UserError(
            f"{part.place}.test_cfg.mode is 'slide', whose result DepthEstimator throws away for "
            "that of the whole image: set 'whole', or 'slide_flip', which also averages with the "
            "mirror image"
        )
    if mode not in ("whole", "slide_flip"):
        raise UserError(
            f"{part.place}.test_cfg.mode of DepthEstimator must be 'whole' or 'slide_flip', got "
            f"{mode!r}"
        )
    for key in ("crop_size", "stride") if mode == "slide_flip" else ():
        if key not in test_cfg:
            raise UserError(
                f"{part.place}.test_cfg.mode 'slide_flip' needs crop_size and stride, the height "
                f"and width of the test images for both: there is no {key}"
            )
        if not _is_size(test_cfg[key]):
            raise UserError(
                f"{part.place}.test_cfg.{key} must be a height and a width, two whole numbers of "
                f"at least 1, got {test_cfg[key]!r}"
            )


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(type(length) is int and length >= 1 for length in value)
    )


def _check_padding(estimator: Part, parts: list[Part]) -> None:
    """The data preprocessor of a depth estimator: its own, or else the one at the top."""
    own = "data_preprocessor" in estimator.settings
    place = f"{estimator.place}.data_preprocessor" if own else "data_preprocessor"
    for part in parts:
        if part.place == place and "SegDataPreProcessor" in _names(part):
            value = part.get("seg_pad_val")
            if value != 0:
                raise UserError(
                    f"{place}.seg_pad_val is {value}, which would be the depth in meters where "
                    "images are padded: set seg_pad_val=0, which is not known"
                )


def _check_metric(part: Part) -> None:
    if part.settings.get("depth_metrics") is not None:
        raise UserError(
            f"{part.place}: DepthMetric of mmseg fails with any depth_metrics: leave them out, or "
            "set type='DepthErrorMetric', which takes them"
        )


def _check_loading(part: Part) -> None:
    factor = part.get("depth_rescale_factor")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not factor > 0:
        raise UserError(
            f"{part.place}: depth_rescale_factor of LoadDepthAnnotation must be a number above 0, "
            f"1e-3 for millimeters, got {factor!r}"
        )
    if not part.get("to_float32"):
        raise UserError(
            f"{part.place}: LoadDepthAnnotation with to_float32=False cannot give meters: leave it "
            "out"
        )


def _check_filling(part: Part, name: str) -> None:
    argument = FILLING[name]
    value = part.get(argument)
    if value is not None and value != 0:
        raise UserError(
            f"{part.place}: {name} fills depth with {argument}={value}, in meters, where there is "
            f"no image: set {argument}=0, which is not known"
        )


def _names(part: Part) -> list[str]:
    """Names of the class of a part and of those that it inherits from."""
    return [base.__name__ for base in part.cls.__mro__] if inspect.isclass(part.cls) else []


def _data_set(part: Part) -> str:
    """The place of the data set whose samples a transform is for."""
    return part.place.partition(".pipeline[")[0]
