"""Settings of depth estimation that mmseg takes and that give something else, NaN or 255 meters."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from mmdysample.engine.checks.parts import Part
from mmdysample.errors import UserError


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
    pipelines = {_pipeline(part) for part in parts if "LoadDepthAnnotation" in _names(part)}
    for part in parts:
        if "RandomRotate" in _names(part) and _pipeline(part) in pipelines:
            _check_filling(part)


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
    for key in ("crop_size", "stride"):
        if mode == "slide_flip" and key not in test_cfg:
            raise UserError(
                f"{part.place}.test_cfg.mode 'slide_flip' needs crop_size and stride, the height "
                f"and width of the test images for both: there is no {key}"
            )
    preprocessor = part.get("data_preprocessor") or {}
    if preprocessor.get("type") == "SegDataPreProcessor":
        value = preprocessor.get("seg_pad_val", 255)
        if value != 0:
            raise UserError(
                f"{part.place}.data_preprocessor.seg_pad_val is {value}, which would be the depth "
                "in meters where images are padded: set seg_pad_val=0, which is not known"
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


def _check_filling(part: Part) -> None:
    value = part.get("seg_pad_val")
    if value != 0:
        raise UserError(
            f"{part.place}: RandomRotate fills depth with seg_pad_val={value}, in meters, where "
            "the rotated image ends: set seg_pad_val=0, which is not known"
        )


def _names(part: Part) -> list[str]:
    """Names of the class of a part and of those that it inherits from."""
    return [base.__name__ for base in part.cls.__mro__] if inspect.isclass(part.cls) else []


def _pipeline(part: Part) -> str:
    """The place of the list of transforms that a part is in."""
    return part.place.partition("[")[0]
