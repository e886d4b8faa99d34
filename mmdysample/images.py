"""Image files: checked by their first and last bytes before they are decoded, written atomically.

Decoders draw the missing rest of a truncated image in gray, take as much memory as a file's header
asks for, and say neither which file they failed at nor why. Labels of 16 bits are read modulo 256.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from mmdysample.atomic import replacing
from mmdysample.coco import MAX_PIXELS
from mmdysample.errors import InvalidValue, UserError

_END_OF_JPEG, _END_OF_PNG = b"\xff\xd9", b"IEND"


class CheckImageFile:
    """A transform that stands before the one that loads an image or a label map.

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
        """The same results; UserError as `check_image_file` raises it."""
        path = results.get(self.key)
        if path is not None and "://" not in str(path):
            check_image_file(str(path), self.kind, self.labels)
        return results


class CheckImageSize:
    """A transform that follows the one that loads an image; ``ann_file`` is for its message."""

    def __init__(self, ann_file: str) -> None:
        self.ann_file = ann_file

    def __call__(self, results: dict) -> dict:
        """The same results; UserError if the annotation file gives the image another size."""
        loaded, recorded = results.get("ori_shape"), (results.get("height"), results.get("width"))
        if loaded is None or None in recorded or tuple(loaded[:2]) == recorded:
            return results
        turned = tuple(loaded[1::-1]) == recorded
        raise UserError(
            f"the image {results.get('img_path')} is {loaded[0]}x{loaded[1]} (height x width), but "
            f"{recorded[0]}x{recorded[1]} in {self.ann_file}"
            f"{' (is it turned by its EXIF orientation?)' if turned else ''}"
        )


def check_image_file(path: str, kind: str = "image", labels: bool = False) -> None:
    """Check a file that is to be decoded.

    Args:
        path: the file.
        kind: what the file is, for the message.
        labels: whether its values are labels, from 0 to 255.

    Raises:
        UserError: the file cannot be read, is truncated, is too large, or has labels above 255.
    """
    content = io.BytesIO(_read(path, kind))
    try:
        # Reads the header alone.
        image = Image.open(content)
    except Image.DecompressionBombError as error:
        raise UserError(
            f"the {kind} {path} has more than {MAX_PIXELS:,} pixels by its header: it is damaged, "
            "or has to be cut into parts"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        # OpenCV knows formats that PIL does not.
        if _decodes(content.getvalue()):
            return
        raise UserError(
            f"the {kind} {path} cannot be read: it is damaged or in no known format"
        ) from error
    if image.format == "MPO":
        # A JPEG image with others behind it, as phones write; the first alone is decoded.
        content.seek(0)
        image = JpegImageFile(content)
    # Thumbnails in the header have ends of their own.
    pixels = content.read()
    end = {"JPEG": _END_OF_JPEG, "PNG": _END_OF_PNG}.get(image.format, b"")
    if end not in pixels:
        raise UserError(f"the {kind} {path} cannot be read: its end is missing")
    if labels and image.mode[0] in "IF" and not _fits_8_bits(image):
        raise UserError(
            f"the label map {path} has labels of more than 8 bits outside of 0 to 255: a label map "
            "is an image of one channel with labels from 0 to 255"
        )


def write_image(path: str | os.PathLike, pixels: np.ndarray) -> None:
    """Write an image file atomically, in the format that its name ends in, and make its directory.

    Args:
        path: the file; an earlier one is replaced.
        pixels: (H, W) or (H, W, 3), BGR, uint8 or for PNG uint16.

    Raises:
        InvalidValue: OpenCV cannot encode the pixels in this format.
        OSError: the file cannot be written.
    """
    try:
        encoded, content = cv2.imencode(Path(path).suffix, pixels)
    except cv2.error:
        encoded = False
    if not encoded:
        raise InvalidValue(
            f"{path}: an array {pixels.shape} of {pixels.dtype} cannot be encoded as "
            f"{Path(path).suffix[1:].upper() or 'an image without a suffix'}"
        )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_bytes(content.tobytes())


def _read(path: str, kind: str) -> bytes:
    try:
        mode = os.stat(path).st_mode
        # Reading from a pipe or a device may not end.
        if not stat.S_ISREG(mode):
            what = "is a directory" if stat.S_ISDIR(mode) else "is not a regular file"
            raise UserError(f"the {kind} {path} cannot be read: {what}")
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"the {kind} {path} cannot be read: {reason.lower()}") from error
    if not content:
        raise UserError(f"the {kind} {path} cannot be read: the file is empty")
    return content


def _decodes(content: bytes) -> bool:
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) is not None
    except cv2.error:
        return False


def _fits_8_bits(image: Image.Image) -> bool:
    low, high = image.getextrema()
    return 0 <= low <= high <= 255
