"""Transforms of images with depth maps, as in the training of DepthFormer and BTS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmseg.registry import TRANSFORMS

from mmdysample.errors import InvalidType, InvalidValue
from mmdysample.mmseg.depth import nyu
from mmdysample.ops.checks import finite_number


@TRANSFORMS.register_module()
class NYUCrop(BaseTransform):
    """Cut the white border of NYU Depth V2's images off, with all maps that belong to them.

    Rows 45 to 472 and columns 43 to 608 of a 480x640 image, 427x565 pixels, as BTS does before its
    random crop; of an image of another size the same parts of its height and width.

    Required keys: img, seg_fields and the maps that these name. Changed: these and img_shape.
    """

    def transform(self, results: dict) -> dict:
        """The results with the image and its maps cropped."""
        rows, columns = nyu.part_of(results["img"].shape[:2], nyu.WITHOUT_BORDER)
        for key in ("img", *results.get("seg_fields", [])):
            results[key] = results[key][rows, columns]
        results["img_shape"] = results["img"].shape[:2]
        return results

    def __repr__(self) -> str:
        return "NYUCrop()"


@TRANSFORMS.register_module()
class DepthColorAug(BaseTransform):
    """Change an image's gamma, brightness and the brightness of each channel at random.

    With values v from 0 to ``white``: v ** gamma * brightness * color, clipped to 0..``white`` and
    brought back to 0..255, in float32. With ``white=1``, as BTS does, the gamma moves the values
    between black and white; with ``white=255``, as the Monocular Depth Estimation Toolbox does for
    DepthFormer, it is above all another brightness: 255 ** 0.1 is 1.74.

    Required and changed key: img, of values from 0 to 255.

    Args:
        prob: the probability of a change.
        gamma: range that the exponent is drawn from.
        brightness: range of the factor of all channels.
        color: range of the factors of the single channels.
        white: the value of white while the gamma is applied.
    """

    def __init__(
        self,
        prob: float = 0.5,
        gamma: Sequence[float] = (0.9, 1.1),
        brightness: Sequence[float] = (0.75, 1.25),
        color: Sequence[float] = (0.9, 1.1),
        white: float = 1.0,
    ) -> None:
        finite_number("prob of DepthColorAug", prob, "a number in 0..1", least=0, most=1)
        for name, value in dict(gamma=gamma, brightness=brightness, color=color).items():
            _check_factors(name, value)
        accepted = "a finite number above 0, 1 as in BTS, 255 as in DepthFormer"
        finite_number("white of DepthColorAug", white, accepted, above=0)
        self.prob = prob
        self.gamma = gamma
        self.brightness = brightness
        self.color = color
        self.white = white

    @cache_randomness
    def _draw(self) -> tuple[float, float, np.ndarray] | None:
        """gamma, brightness and the three colors; None if there is nothing to change."""
        if np.random.rand() >= self.prob:
            return None
        gamma, brightness = np.random.uniform(*self.gamma), np.random.uniform(*self.brightness)
        return gamma, brightness, np.random.uniform(*self.color, size=3)

    def transform(self, results: dict) -> dict:
        """The results with the image changed, or not."""
        drawn = self._draw()
        if drawn is not None:
            gamma, brightness, color = drawn
            values = results["img"].astype(np.float32) * (self.white / 255)
            values = (values**gamma * (brightness * color)).clip(0, self.white)
            results["img"] = (values * (255 / self.white)).astype(np.float32)
        return results

    def __repr__(self) -> str:
        return (
            f"DepthColorAug(prob={self.prob}, gamma={self.gamma}, brightness={self.brightness}, "
            f"color={self.color}, white={self.white})"
        )


def _check_factors(name: str, value: Any) -> None:
    """InvalidType or InvalidValue unless ``value`` is the range that a factor is drawn from."""
    name, accepted = f"{name} of DepthColorAug", "two numbers above 0, the smaller first"
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise InvalidType(f"{name} must be {accepted}, got {value!r}")
    low, high = (finite_number(name, each, accepted, above=0) for each in value)
    if low > high:
        raise InvalidValue(f"{name} must be {accepted}, got {value!r}")
