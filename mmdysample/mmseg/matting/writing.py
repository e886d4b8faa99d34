"""How images of matting are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmdysample.engine.images import write_image


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write a PNG file of 8 bits atomically, making the directories that it is in.

    Args:
        path: the file; an earlier one is replaced.
        pixels: (H, W) or (H, W, 3), BGR, uint8.

    Raises:
        InvalidValue: OpenCV cannot encode the pixels.
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, pixels)
