"""Segments of COCO's panoptic format: their ids in PNG files.

A pixel's color is its segment's id, R + 256 G + 65536 B; id 0 is void (panopticapi: ``rgb2id``,
``VOID``). https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections.abc import Iterable

import mmcv
import numpy as np
from mmengine.fileio import get

from mmdysample.coco import VOID
from mmdysample.errors import InvalidValue


def rgb_to_id(colors: np.ndarray) -> np.ndarray:
    """Colors (H, W, 3), uint8, RGB -> ids of segments (H, W), int32."""
    red, green, blue = np.moveaxis(colors.astype(np.int32), -1, 0)
    return red + (green << 8) + (blue << 16)


def id_to_rgb(ids: np.ndarray) -> np.ndarray:
    """Ids of segments (H, W), from 0 to 2**24 - 1 -> colors (H, W, 3), uint8, RGB."""
    ids = np.asarray(ids)
    return np.stack([ids & 255, (ids >> 8) & 255, (ids >> 16) & 255], axis=-1).astype(np.uint8)


def read_segments(
    path: str, size: tuple[int, int], image: str, backend_args: dict | None = None
) -> np.ndarray:
    """Ids of segments (H, W), int32, from a PNG file.

    Args:
        path: the file.
        size: height and width of the image that it is of.
        image: the path of that image, for what an error says.
        backend_args: as for mmengine's ``fileio``.

    Raises:
        ValueError: the file is missing, cannot be decoded, or is not of ``size``.
    """
    try:
        content = get(path, backend_args=backend_args)
    except FileNotFoundError as error:
        raise InvalidValue(f"the panoptic segments {path} of image {image} do not exist") from error
    # In BGR: to convert what could not be decoded fails in words that name no file.
    colors = mmcv.imfrombytes(content, flag="color") if content else None
    if colors is None:
        raise InvalidValue(f"{path} cannot be read: it is damaged or in no known format")
    if colors.shape[:2] != tuple(size):
        raise InvalidValue(
            f"the panoptic segments {path} are {colors.shape[0]}x{colors.shape[1]} (height x "
            f"width), but their image {image} is {size[0]}x{size[1]}"
        )
    return rgb_to_id(colors[..., ::-1])


def check_recorded(ids: Iterable[int], recorded: Iterable[int], path: str) -> None:
    """Raise ValueError if one of ``ids``, found in ``path``, is neither void nor ``recorded``."""
    unknown = sorted(set(ids) - set(recorded) - {VOID})
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise InvalidValue(
            f"{path} has pixels of segment {unknown[0]}{more}, which the annotation file does not "
            "list for this image, or lists as empty"
        )
