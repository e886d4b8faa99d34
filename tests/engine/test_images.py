"""Image and label map files are checked before they are decoded."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import pytest

pytest.importorskip("mmcv", reason="needs mmcv: bash tools/setup_env.sh installs it")

import cv2
import numpy as np
from PIL import Image

from mmdysample.engine.images import CheckImageFile, CheckImageSize
from mmdysample.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(kind: str, thumbnail: bytes = b"", **settings) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(NOISE).save(buffer, kind, **settings)
    content = buffer.getvalue()
    if thumbnail:  # an application segment behind the start of the image
        content = (
            content[:2]
            + b"\xff\xe5"
            + struct.pack(">H", len(thumbnail) + 2)
            + thumbnail
            + content[2:]
        )
    return content


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def check(path: Path, content: bytes | None = None, **settings) -> None:
    if content is not None:
        path.write_bytes(content)
    sample = dict(path=str(path))
    assert CheckImageFile("path", **settings)(sample) is sample


JPEG = encoded("JPEG")


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
def test_anything_may_be_appended_to_a_jpeg(progressive, tmp_path):
    """As cameras append a film: bytes that look like the start of a scan, without an end."""
    content = encoded("JPEG", progressive=progressive)
    check(tmp_path / "a.jpg", content + b"\xff\xda" * 9)
    check(tmp_path / "a.jpg", content[:2] + b"\xff" + content[2:] + b"\xff\xda")  # a fill byte
    with pytest.raises(UserError, match="its end is missing"):
        check(tmp_path / "a.jpg", content[:-40])


@pytest.mark.parametrize(
    "content",
    [
        JPEG,
        JPEG + b"what others append",
        encoded("JPEG", progressive=True),
        encoded("JPEG", thumbnail=JPEG),
        encoded("PNG"),
        encoded("BMP"),
        encoded("WEBP"),
        encoded("TIFF"),
        cv2.imencode(".hdr", NOISE.astype(np.float32))[1].tobytes(),  # which PIL does not know
    ],
    ids=["jpeg", "appended", "progressive", "thumbnail", "png", "bmp", "webp", "tiff", "hdr"],
)
def test_whole_images_pass(tmp_path, content):
    check(tmp_path / "x", content)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"not an image", "damaged or in no known format"),
        (JPEG[:1], "damaged or in no known format"),
        (JPEG[:200], "damaged or in no known format"),
        (JPEG[:-100], "its end is missing"),
        (JPEG[:-2], "its end is missing"),
        (encoded("JPEG", thumbnail=JPEG)[:-100], "its end is missing"),
        (encoded("JPEG", progressive=True)[:-100], "its end is missing"),
        (encoded("PNG")[:-300], "its end is missing"),
        (png_header(0, 5), "damaged or in no known format"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_images(tmp_path, content, says):
    with pytest.raises(UserError, match=rf"^the image {tmp_path}/x cannot be read: .*{says}$"):
        check(tmp_path / "x", content)


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (1, 178_956_971)])
def test_decompression_bombs(tmp_path, size):
    with pytest.raises(UserError, match="/x has more than 178,956,970 pixels by its header"):
        check(tmp_path / "x", png_header(*size))


def test_what_is_no_file(tmp_path):
    (tmp_path / "link").symlink_to("nothing")
    with pytest.raises(UserError, match="link cannot be read: no such file or directory"):
        check(tmp_path / "link")
    with pytest.raises(UserError, match=f"the label map {tmp_path} cannot be read: is a directory"):
        check(tmp_path, kind="label map")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match=f"{path} cannot be read: is no regular file"):
            check(path)
    with pytest.raises(UserError, match="cannot be read: embedded null byte"):
        check(Path("a\0b"))


def test_what_is_not_on_this_machine_is_left_to_its_backend():
    for sample in (dict(), dict(path=None), dict(path="s3://images/x.jpg")):
        assert CheckImageFile("path")(sample) is sample


@pytest.mark.parametrize(
    ("array", "fits"),
    [
        (np.array([[0, 255]], np.uint8), True),
        (np.array([[0, 255]], np.uint16), True),
        (np.array([[0, 256]], np.uint16), False),
        (np.array([[0, 65535]], np.uint16), False),
        (np.array([[0, -1]], np.int32), False),
        (np.array([[0, 255]], np.int32), True),
        (np.array([[0.0, 300.0]], np.float32), False),
    ],
)
def test_labels_of_more_than_8_bits(tmp_path, array, fits):
    """mmseg reads them modulo 256, before anybody can look at them."""
    path = tmp_path / ("x.png" if array.dtype.kind == "u" else "x.tiff")
    Image.fromarray(array).save(path)
    if fits:
        check(path, kind="label map", labels=True)
    else:
        with pytest.raises(
            UserError, match=r"label map .*/x\.\w+ has labels .* outside of 0 to 255"
        ):
            check(path, kind="label map", labels=True)
    check(path)


def test_palettes_pass(tmp_path):
    Image.fromarray(NOISE[..., 0]).convert("P").save(tmp_path / "x.png")
    check(tmp_path / "x.png", kind="label map", labels=True)


def sized(height: int, width: int, shape: tuple) -> dict:
    return dict(img_path="a.jpg", ori_shape=shape, height=height, width=width)


def test_size():
    compare = CheckImageSize("x.json")
    for sample in (sized(4, 6, (4, 6)), sized(4, 6, (4, 6, 3)), dict(ori_shape=(4, 6)), dict()):
        assert compare(sample) is sample
    with pytest.raises(UserError) as caught:
        compare(sized(4, 6, (5, 6)))
    assert str(caught.value) == "the image a.jpg is 5x6 (height x width), but 4x6 in x.json"
    with pytest.raises(UserError, match=r"is 6x4 .*, but 4x6 in x.json \(is it turned by its EXIF"):
        compare(sized(4, 6, (6, 4)))
