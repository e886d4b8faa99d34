"""How images of matting are written."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mmdysample.engine.atomic import replacing
from mmdysample.errors import InvalidValue


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write a PNG file of 8 bits atomically, making the directories that it is in.

    Args:
        path: the file; an earlier one is replaced.
        pixels: (H, W) or (H, W, 3), BGR, uint8.

    Raises:
        InvalidValue: OpenCV cannot encode the pixels.
        OSError: the file cannot be written.
    """
    encoded, content = cv2.imencode(".png", pixels)
    if not encoded:
        raise InvalidValue(f"{path}: an array {pixels.shape} cannot be encoded as PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_bytes(content.tobytes())
