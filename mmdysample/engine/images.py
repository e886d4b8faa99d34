"""Image and label map files, checked by their first and last bytes before they are decoded.

Decoders draw the missing rest of a truncated image in grey, take as much memory as a file's header
asks for, and say neither which file they failed at nor why. Labels of 16 bits are read modulo 256.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from mmdysample.errors import UserError

# Where PIL, which reads mmseg's label maps, refuses an image as a decompression bomb.
MAX_PIXELS = 178_956_970

_END_OF_JPEG, _END_OF_PNG = b"\xff\xd9", b"IEND"
_SCAN = 0xDA


class ImageFileCheck:
    """A transform that stands in front of the one that loads an image or a label map.

    Args:
        key: of the sample's file.
        kind: what the file is, for the message.
        labels: whether its values are labels, from 0 to 255.
    """

    def __init__(self, key: str, kind: str = "image", labels: bool = False) -> None:
        self.key = key
        self.kind = kind
        self.labels = labels

    def __call__(self, results: dict) -> dict:
        """The same results.

        Raises:
            UserError: the file cannot be read, is truncated, is too large, or has labels above 255.
        """
        path = results.get(self.key)
        if path is not None and "://" not in str(path):
            check_image_file(str(path), self.kind, self.labels)
        return results


class ImageSizeCheck:
    """A transform that follows the one that loads an image; ``ann_file`` is for its message."""

    def __init__(self, ann_file: str) -> None:
        self.ann_file = ann_file

    def __call__(self, results: dict) -> dict:
        """The same results.

        Raises:
            UserError: the image is not of the size that the annotation file says.
        """
        loaded, said = results.get("ori_shape"), (results.get("height"), results.get("width"))
        if loaded is None or None in said or tuple(loaded[:2]) == said:
            return results
        turned = " (is it turned by its EXIF orientation?)" if tuple(loaded[1::-1]) == said else ""
        raise UserError(
            f"the image {results.get('img_path')} is {loaded[0]}x{loaded[1]} (height x width), but "
            f"{said[0]}x{said[1]} in {self.ann_file}{turned}"
        )


def check_image_file(path: str, kind: str = "image", labels: bool = False) -> None:
    """Raise UserError as `ImageFileCheck` does."""
    try:
        mode = os.stat(path).st_mode
        # Reading from a pipe or a device may not end.
        if not stat.S_ISREG(mode):
            what = "is a directory" if stat.S_ISDIR(mode) else "is no regular file"
            raise UserError(f"the {kind} {path} cannot be read: {what}")
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"the {kind} {path} cannot be read: {reason.lower()}") from error
    if not content:
        raise UserError(f"the {kind} {path} cannot be read: the file is empty")
    try:
        # Reads the header alone.
        image = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError as error:
        raise UserError(
            f"the {kind} {path} has more than {MAX_PIXELS:,} pixels by its header: it is damaged, "
            "or has to be cut into parts"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        # OpenCV knows formats that PIL does not.
        if _decodes(content):
            return
        raise UserError(
            f"the {kind} {path} cannot be read: it is damaged or in no known format"
        ) from error
    if _is_truncated(content, image.format):
        raise UserError(f"the {kind} {path} cannot be read: its end is missing")
    if labels and image.mode[0] in "IF" and not _fits_8_bits(image):
        raise UserError(
            f"the label map {path} has labels of more than 8 bits outside of 0 to 255: a label map "
            "is an image of one channel with labels from 0 to 255"
        )


def _decodes(content: bytes) -> bool:
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) is not None
    except cv2.error:
        return False


def _is_truncated(content: bytes, format_name: Any) -> bool:
    if format_name == "JPEG":
        # Images inside of the header have ends of their own; what is appended may hold anything.
        return _END_OF_JPEG not in content[_start_of_scan(content) :]
    return format_name == "PNG" and _END_OF_PNG not in content


def _start_of_scan(content: bytes) -> int:
    """Where a JPEG's pixels begin, behind the segments of its header; its length if they do not."""
    position = 2
    while position + 4 <= len(content):
        marker, code = content[position], content[position + 1]
        if marker == 0xFF and code == _SCAN:
            return position
        if marker != 0xFF or code == 0xFF:  # what decoders pass over, too
            position += 1
        else:
            position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return len(content)


def _fits_8_bits(image: Image.Image) -> bool:
    low, high = image.getextrema()
    return 0 <= low <= high <= 255
