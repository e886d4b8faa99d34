"""How a training sample of matting is made: foregrounds, trimap, crop, color, compositing, packing.

The samples are dicts of ``fg``, ``bg`` (H, W, 3), BGR, and ``alpha``, ``trimap`` (H, W), all uint8.
Sources: Xu et al., "Deep Image Matting", CVPR 2017 (compositing, crops around unknown pixels,
trimaps by erosion); Li and Lu, "Natural Image Matting via Guided Contextual Attention", AAAI 2020
(a second foreground, the affine map, the change of colors), which A2U matting follows. Whatever is
random is drawn from numpy.random, which mmengine seeds in each worker.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import PixelData
from mmseg.registry import TRANSFORMS
from mmseg.structures import SegDataSample

from mmdysample.errors import InvalidValue
from mmdysample.mmseg.matting.compositing import composite, over
from mmdysample.mmseg.matting.loading import BACKGROUND, FOREGROUND, UNKNOWN, read_foreground

MAPS = ("fg", "bg", "alpha", "trimap")
_FIELDS = dict(trimap="trimap", alpha="gt_alpha", fg="gt_fg", bg="gt_bg")


@TRANSFORMS.register_module()
class MergeForegrounds(BaseTransform):
    """Puts a second foreground, scaled to the size of the first, over it.

    alpha = 1 - (1 - a)(1 - a2). Where that would be opaque everywhere the sample stays as it is:
    no edge would be left in it.

    Args:
        prob: how often.

    The sample needs ``other``, a dict with the paths of the second.
    """

    def __init__(self, prob: float = 0.5) -> None:
        _check_probability(prob)
        self.prob = prob

    def transform(self, results: dict) -> dict:
        if np.random.rand() >= self.prob:
            return results
        height, width = results["alpha"].shape
        second, second_alpha = (
            _resize(pixels, height, width) for pixels in read_foreground(results["other"])
        )
        foreground, alpha = over(second, second_alpha, results["fg"], results["alpha"])
        if (alpha < 255).any():
            results["fg"], results["alpha"] = foreground, alpha
        return results


@TRANSFORMS.register_module()
class ResizeForeground(BaseTransform):
    """Scales the foreground and its alpha to a square, taking the nearest pixels.

    Args:
        size: its side.
        prob: how often.
    """

    def __init__(self, size: int = 640, prob: float = 0.25) -> None:
        _check_size("size", size)
        _check_probability(prob)
        self.size = size
        self.prob = prob

    def transform(self, results: dict) -> dict:
        if np.random.rand() < self.prob:
            for key in ("fg", "alpha"):
                results[key] = _resize(results[key], self.size, self.size)
        return results


@TRANSFORMS.register_module()
class RandomForegroundAffine(BaseTransform):
    """Turns, scales, shears and flips the foreground about its center, taking the nearest pixels.

    Rows and columns are flipped independently of each other. (Where the affine map flips both axes
    and another flip from left to right follows, as the sources have it, the result is this one:
    of two independent flips one of which has probability 1/2, the sum has it, too.)

    What comes from outside of the image is transparent. The size stays.

    Args:
        max_rotation: degrees in both directions.
        min_rotated_side: images whose longer side is shorter than this are not turned.
        scale_range: of the factor, one for both axes.
        max_shear: degrees in both directions, along the rows.
        flip_prob: how often left and right are exchanged, and how often above and below.
    """

    def __init__(
        self,
        max_rotation: float = 30,
        min_rotated_side: int = 1024,
        scale_range: Sequence[float] = (0.8, 1.25),
        max_shear: float = 10,
        flip_prob: float = 0.5,
    ) -> None:
        if len(scale_range) != 2 or not 0 < scale_range[0] <= scale_range[1]:
            raise InvalidValue(
                f"scale_range must be two factors, 0 < low <= high, got {scale_range!r}"
            )
        if not 0 <= max_shear < 90:
            raise InvalidValue(f"max_shear must be from 0 to below 90 degrees, got {max_shear!r}")
        _check_probability(flip_prob, "flip_prob")
        self.max_rotation = max_rotation
        self.min_rotated_side = min_rotated_side
        self.scale_range = scale_range
        self.max_shear = max_shear
        self.flip_prob = flip_prob

    def transform(self, results: dict) -> dict:
        height, width = results["alpha"].shape
        turned = max(height, width) >= self.min_rotated_side
        angle = np.deg2rad(np.random.uniform(-1, 1) * self.max_rotation) if turned else 0.0
        shear = np.tan(np.deg2rad(np.random.uniform(-1, 1) * self.max_shear))
        scale = np.random.uniform(*self.scale_range)
        flips = np.where(np.random.rand(2) < self.flip_prob, -1, 1)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = scale * turn @ np.array([[1, shear], [0, 1]]) @ np.diag(flips)
        center = np.array([(width - 1) / 2, (height - 1) / 2])
        matrix = np.column_stack([linear, center - linear @ center])
        for key in ("fg", "alpha"):
            results[key] = cv2.warpAffine(
                results[key], matrix, (width, height), flags=cv2.INTER_NEAREST
            )
        return results


@TRANSFORMS.register_module()
class GenerateTrimap(BaseTransform):
    """A trimap from the alpha: what is left of the opaque pixels and of the transparent ones when
    each are eroded by an ellipse of a random size, and the rest unknown.

    Pixels beyond the edges of the image erode nothing.

    Args:
        kernel_size: smallest and largest size of the two ellipses.
    """

    def __init__(self, kernel_size: Sequence[int] = (1, 29)) -> None:
        if len(kernel_size) != 2 or not 1 <= kernel_size[0] <= kernel_size[1]:
            raise InvalidValue(
                f"kernel_size must be two sizes, 1 <= low <= high, got {kernel_size!r}"
            )
        self.kernel_size = kernel_size

    def transform(self, results: dict) -> dict:
        alpha = results["alpha"]
        trimap = np.full_like(alpha, UNKNOWN)
        trimap[self._erode(alpha == 255)] = FOREGROUND
        trimap[self._erode(alpha == 0)] = BACKGROUND
        results["trimap"] = trimap
        return results

    def _erode(self, mask: np.ndarray) -> np.ndarray:
        low, high = self.kernel_size
        size = np.random.randint(low, high + 1)
        ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
        return cv2.erode(mask.astype(np.uint8), ellipse).astype(bool)


@TRANSFORMS.register_module()
class CropAroundUnknown(BaseTransform):
    """Crops all maps to a square about a random unknown pixel.

    That is its center, but at the edges of the image the square is moved into it. Where the image
    is smaller than the square it is scaled up first, sides in proportion, taking the nearest
    pixels. A sample without unknown pixels, as where a foreground was moved out of its image, is
    cropped at random.

    Args:
        crop_size: side of the square.
    """

    def __init__(self, crop_size: int = 512) -> None:
        _check_size("crop_size", crop_size)
        self.crop_size = crop_size

    def transform(self, results: dict) -> dict:
        size = self.crop_size
        height, width = results["trimap"].shape
        factor = size / min(height, width)
        if factor > 1:
            height, width = max(size, round(height * factor)), max(size, round(width * factor))
            for key in MAPS:
                results[key] = _resize(results[key], height, width)
        rows, columns = np.nonzero(results["trimap"] == UNKNOWN)
        if rows.size:
            chosen = np.random.randint(rows.size)
            row, column = rows[chosen], columns[chosen]
        else:
            row, column = np.random.randint(height), np.random.randint(width)
        top = np.clip(row - size // 2, 0, height - size)
        left = np.clip(column - size // 2, 0, width - size)
        for key in MAPS:
            results[key] = results[key][top : top + size, left : left + size]
        return results


@TRANSFORMS.register_module()
class JitterForeground(BaseTransform):
    """Changes hue, saturation and value of the foreground, each by one random step.

    Args:
        hue: degrees in both directions.
        part: of the headroom, which is 1 less the mean over what is not transparent: saturation and
            value are moved by at most this part of it in both directions.
    """

    def __init__(self, hue: float = 40, part: float = 0.1) -> None:
        if not 0 <= hue <= 180:
            raise InvalidValue(f"hue must be from 0 to 180 degrees, got {hue!r}")
        _check_probability(part, "part")
        self.hue = hue
        self.part = part

    def transform(self, results: dict) -> dict:
        seen = results["alpha"] > 0
        steps = np.random.uniform(-1, 1, 3)
        if not seen.any():
            return results
        # Floating point: hue in degrees, saturation and value from 0 to 1.
        color = cv2.cvtColor(results["fg"].astype(np.float32) / 255, cv2.COLOR_BGR2HSV)
        color[..., 0] = (color[..., 0] + steps[0] * self.hue) % 360
        for channel in (1, 2):
            headroom = 1 - color[..., channel][seen].mean()
            moved = color[..., channel] + steps[channel] * self.part * headroom
            color[..., channel] = np.clip(moved, 0, 1)
        changed = cv2.cvtColor(color, cv2.COLOR_HSV2BGR)
        results["fg"] = np.rint(changed * 255).clip(0, 255).astype(np.uint8)
        return results


@TRANSFORMS.register_module()
class CompositeForeground(BaseTransform):
    """``img`` (H, W, 3), uint8: the foreground in front of the background."""

    def transform(self, results: dict) -> dict:
        results["img"] = composite(results["fg"], results["bg"], results["alpha"])
        return results


@TRANSFORMS.register_module()
class PackMattingInputs(BaseTransform):
    """What the model takes: ``inputs`` (3, H, W), uint8, BGR, and an mmseg SegDataSample.

    Its fields are ``trimap`` (1, H, W) and, where they were loaded, ``gt_alpha`` (1, H, W),
    ``gt_fg`` and ``gt_bg`` (3, H, W), all uint8; its metainfo has the paths and shapes.

    Args:
        meta_keys: what the metainfo takes from the sample.
    """

    def __init__(
        self,
        meta_keys: Sequence[str] = ("img_path", "trimap_path", "alpha_path", "ori_shape"),
    ) -> None:
        self.meta_keys = meta_keys

    def transform(self, results: dict) -> dict:
        sample = SegDataSample()
        for key, field in _FIELDS.items():
            if key in results:
                sample.set_data({field: PixelData(data=_to_tensor(results[key]))})
        meta = {key: results[key] for key in self.meta_keys if key in results}
        sample.set_metainfo({**meta, "img_shape": results["img"].shape[:2]})
        return dict(inputs=_to_tensor(results["img"]), data_samples=sample)


def _to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """(C, H, W) of an image (H, W, C) or (H, W)."""
    channels_last = pixels.reshape(*pixels.shape[:2], -1)
    return torch.from_numpy(np.ascontiguousarray(channels_last.transpose(2, 0, 1)))


def _resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_NEAREST)


def _check_probability(value: float, name: str = "prob") -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InvalidValue(f"{name} must be from 0 to 1, got {value!r}")


def _check_size(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidValue(f"{name} must be a whole number of pixels from 1, got {value!r}")
