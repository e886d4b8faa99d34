"""The matting equation on images of whole numbers: image = alpha * fg + (1 - alpha) * bg."""

from __future__ import annotations

import math

import cv2
import numpy as np


def composite(foreground: np.ndarray, background: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """A foreground in front of a background, rounded to the nearest whole number.

    Args:
        foreground, background: (H, W, 3), uint8.
        alpha: (H, W), uint8, 255 is opaque.

    Returns:
        (H, W, 3), uint8.
    """
    # Below 2**16: 255 * 255 + 127.
    weight = alpha.astype(np.uint16)[..., None]
    mixed = weight * foreground + (255 - weight) * background
    return ((mixed + 127) // 255).astype(np.uint8)


def over(
    front: np.ndarray, front_alpha: np.ndarray, back: np.ndarray, back_alpha: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One foreground over another: the "over" of Porter and Duff, SIGGRAPH 1984.

    alpha = 1 - (1 - front alpha)(1 - back alpha), and each color is the mean of both, weighted by
    their visible parts, so that compositing the result is compositing the one after the other.

    Args:
        front, back: (H, W, 3), uint8.
        front_alpha, back_alpha: (H, W), uint8.

    Returns:
        Foreground (H, W, 3) and alpha (H, W), uint8. Where nothing is seen the color is ``back``.
    """
    near = front_alpha.astype(np.float32) / 255
    far = (1 - near) * (back_alpha.astype(np.float32) / 255)
    alpha = near + far
    # Where both are transparent the share does not count.
    share = np.divide(near, alpha, out=np.zeros_like(near), where=alpha > 0)[..., None]
    color = share * front + (1 - share) * back
    return np.rint(color).astype(np.uint8), np.rint(alpha * 255).astype(np.uint8)


def cover(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image that has at least this size: scaled up by one factor where it is smaller.

    Args:
        image: (H, W, 3), uint8.

    Returns:
        (H', W', 3), uint8, H' >= height and W' >= width; the image itself if it is large enough.
    """
    factor = max(height / image.shape[0], width / image.shape[1])
    if factor <= 1:
        return image
    size = [max(math.ceil(side * factor), least) for side, least in _sides(image, height, width)]
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)


def _sides(image: np.ndarray, height: int, width: int) -> list[tuple[int, int]]:
    return [(image.shape[0], height), (image.shape[1], width)]
