"""Images, alpha mattes and trimaps as they are read from files, and what is wrong with them.

``checked_files`` of a transform names the files that it reads: keys of the sample and what each
file is. The tools look at the ends of these before they are decoded (engine/data.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from mmdysample.errors import InvalidValue
from mmdysample.mmseg.matting.compositing import cover

BACKGROUND, UNKNOWN, FOREGROUND = 0, 128, 255
"""The values of a trimap."""


def read_color(path: str, kind: str = "image") -> np.ndarray:
    """(H, W, 3), uint8, BGR.

    Args:
        path: a file.
        kind: what it is, for the sentence.

    Raises:
        InvalidValue: it cannot be read.
    """
    return _decode(path, kind, cv2.IMREAD_COLOR)


def read_gray(path: str, kind: str) -> np.ndarray:
    """(H, W), uint8: an image of one channel, or of several that say the same.

    Raises:
        InvalidValue: it cannot be read, has more than 8 bits, is in color or partly transparent.
    """
    pixels = _decode(path, kind, cv2.IMREAD_UNCHANGED)
    if pixels.dtype != np.uint8:
        raise InvalidValue(
            f"the {kind} {path} has {8 * pixels.dtype.itemsize} bits: 8 bits are needed, 0 to 255"
        )
    if pixels.ndim == 2:
        return pixels
    gray = np.ascontiguousarray(pixels[..., 0])
    if (pixels[..., :3] != gray[..., None]).any():
        raise InvalidValue(
            f"the {kind} {path} has 3 channels that differ: an image of one channel is needed, or "
            "of equal ones"
        )
    if pixels.shape[-1] == 4 and (pixels[..., 3] != 255).any():
        raise InvalidValue(
            f"the {kind} {path} has a channel of transparency besides its values: an image of one "
            "channel is needed"
        )
    return gray


def _decode(path: str, kind: str, flag: int) -> np.ndarray:
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidValue(f"the {kind} {path} cannot be read: {reason.lower()}") from error
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flag) if content else None
    except cv2.error as error:  # more pixels than OpenCV takes
        reason = f"OpenCV says {error.err}"
        raise InvalidValue(f"the {kind} {path} cannot be read: {reason}") from error
    if pixels is None:
        raise InvalidValue(f"the {kind} {path} cannot be read: it is damaged or in no known format")
    return pixels


def check_size(pixels: np.ndarray, what: str, shape: tuple[int, ...], other: str) -> None:
    """Raise InvalidValue unless ``pixels`` have the height and width of ``shape``."""
    if pixels.shape[:2] != tuple(shape[:2]):
        raise InvalidValue(
            f"{what} is {pixels.shape[0]}x{pixels.shape[1]} (height x width), but {other} is "
            f"{shape[0]}x{shape[1]}"
        )


def check_trimap(trimap: np.ndarray, name: str) -> None:
    """Raise InvalidValue unless a trimap (H, W) has three values, unknown pixels among them."""
    values = np.unique(trimap)
    others = [int(value) for value in values if value not in (BACKGROUND, UNKNOWN, FOREGROUND)]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise InvalidValue(
            f"{name} has the value {others[0]}{more}: a trimap has 0 for background, 128 for "
            "unknown and 255 for foreground only"
        )
    if UNKNOWN not in values:
        raise InvalidValue(
            f"{name} has no unknown pixel (128), so that there is nothing to predict: is it a mask?"
        )


@TRANSFORMS.register_module()
class LoadTrimap(BaseTransform):
    """Reads ``trimap_path``, or takes the array ``trimap`` that is there: ``trimap`` (H, W), uint8.

    The image is loaded before.

    Raises:
        InvalidValue: it cannot be read, or has another size than the image or other values than
            those of a trimap.
    """

    checked_files: ClassVar[dict[str, str]] = {"trimap_path": "trimap"}

    def transform(self, results: dict) -> dict:
        path, image = results.get("trimap_path"), results.get("img_path")
        name = "the trimap" if path is None else f"the trimap {path}"
        trimap = results["trimap"] if "trimap" in results else read_gray(path, "trimap")
        whose = "its image" if image is None else f"its image {image}"
        check_size(trimap, name, results["img"].shape, whose)
        check_trimap(trimap, name)
        results["trimap"] = trimap
        return results


@TRANSFORMS.register_module()
class LoadAlphaAnnotations(BaseTransform):
    """Reads ``alpha_path``: ``alpha`` (H, W), uint8, 255 is opaque.

    What the alpha is outside of the trimap's unknown pixels is not looked at: it does not count.

    Raises:
        InvalidValue: it cannot be read, has another size than the image or is no gray image of 8
            bits.
    """

    checked_files: ClassVar[dict[str, str]] = {"alpha_path": "alpha matte"}

    def transform(self, results: dict) -> dict:
        path = results["alpha_path"]
        alpha = read_gray(path, "alpha matte")
        image = f"its image {results['img_path']}"
        check_size(alpha, f"the alpha matte {path}", results["img"].shape, image)
        results["alpha"] = alpha
        return results


@TRANSFORMS.register_module()
class LoadForeground(BaseTransform):
    """Reads ``fg_path`` and ``alpha_path``: ``fg`` (H, W, 3), BGR, and ``alpha`` (H, W), uint8.

    Raises:
        InvalidValue: one of them cannot be read, they differ in size, or the alpha is no gray image
            of 8 bits.
    """

    checked_files: ClassVar[dict[str, str]] = {
        "fg_path": "foreground",
        "alpha_path": "alpha matte",
    }

    def transform(self, results: dict) -> dict:
        results["fg"], results["alpha"] = read_foreground(results)
        # Drawings and messages name the sample by it.
        results["img_path"] = results["fg_path"]
        results["ori_shape"] = results["alpha"].shape
        return results


def read_foreground(sample: dict) -> tuple[np.ndarray, np.ndarray]:
    """The foreground (H, W, 3), BGR, and the alpha (H, W) of a sample with their paths."""
    foreground = read_color(sample["fg_path"], "foreground")
    alpha = read_gray(sample["alpha_path"], "alpha matte")
    name = f"the alpha matte {sample['alpha_path']}"
    check_size(alpha, name, foreground.shape, f"its foreground {sample['fg_path']}")
    return foreground, alpha


@TRANSFORMS.register_module()
class LoadBackground(BaseTransform):
    """Reads ``bg_path``: ``bg`` (H, W, 3), uint8, BGR, as large as the foreground.

    As for the test images of Composition-1k it is scaled up where it is smaller, sides in
    proportion, and cropped where it is larger, here at random.

    Raises:
        InvalidValue: it cannot be read.
    """

    checked_files: ClassVar[dict[str, str]] = {"bg_path": "background"}

    def transform(self, results: dict) -> dict:
        height, width = results["alpha"].shape
        background = cover(read_color(results["bg_path"], "background"), height, width)
        top = np.random.randint(background.shape[0] - height + 1)
        left = np.random.randint(background.shape[1] - width + 1)
        results["bg"] = background[top : top + height, left : left + width]
        return results
