"""Image files are checked before they are decoded, and written atomically."""

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

from mmdysample.errors import InvalidValue, UserError
from mmdysample.images import CheckImageFile, CheckImageSize, write_image

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
WITH_THUMBNAIL = encoded("JPEG", thumbnail=JPEG)
PROGRESSIVE = encoded("JPEG", progressive=True)
# Two images in a file, of which the first is decoded.
SECOND = Image.fromarray(NOISE[::-1])
PHONE = encoded("MPO", thumbnail=JPEG, save_all=True, append_images=[SECOND])
WHOLE = dict(
    jpeg=JPEG,
    progressive=PROGRESSIVE,
    thumbnail=WITH_THUMBNAIL,
    # As cameras append a film: bytes that look like the start of a scan, without an end.
    appended=JPEG + b"\xff\xda" * 9,
    appended_to_progressive=PROGRESSIVE + b"\xff\xda" * 9,
    fill_byte=JPEG[:2] + b"\xff" + JPEG[2:],
    phone=PHONE,
    phone_without_the_second=PHONE[:-100],
    png=encoded("PNG"),
    bmp=encoded("BMP"),
    webp=encoded("WEBP"),
    tiff=encoded("TIFF"),
    hdr=cv2.imencode(".hdr", NOISE.astype(np.float32))[1].tobytes(),  # which PIL does not know
)


@pytest.mark.parametrize("name", WHOLE)
def test_whole_images_pass(tmp_path, name):
    check(tmp_path / "x", WHOLE[name])


@pytest.mark.parametrize(
    ("says", "contents"),
    [
        ("the file is empty", [b""]),
        ("damaged or in no known format", [b"no", JPEG[:1], JPEG[:200], png_header(0, 5)]),
        (
            "its end is missing",
            [
                *(JPEG[:-100], JPEG[:-2], WITH_THUMBNAIL[:-100], PROGRESSIVE[:-100]),
                *(PHONE[: PHONE.rindex(b"\xff\xd8") - 100], WHOLE["png"][:-300]),
            ],
        ),
    ],
    ids=["empty", "damaged", "truncated"],
)
def test_damaged_images(tmp_path, says, contents):
    for content in contents:
        with pytest.raises(UserError, match=rf"^the image {tmp_path}/x cannot be .*{says}$"):
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
        with pytest.raises(UserError, match=f"{path} cannot be read: is not a regular file"):
            check(path)
    with pytest.raises(UserError, match="cannot be read: embedded null byte"):
        check(Path("a\0b"))


def test_what_is_not_on_this_machine_is_left_to_its_backend():
    for sample in (dict(), dict(path=None), dict(path="s3://images/x.jpg")):
        assert CheckImageFile("path")(sample) is sample


@pytest.mark.parametrize(
    ("name", "array", "fits"),
    [
        ("x.png", np.array([[0, 255]], np.uint8), True),
        ("x.png", np.array([[0, 255]], np.uint16), True),
        ("x.png", np.array([[0, 256]], np.uint16), False),
        ("x.tiff", np.array([[0, -1]], np.int32), False),
        ("x.tiff", np.array([[0.0, 300.0]], np.float32), False),
    ],
)
def test_labels_of_more_than_8_bits(tmp_path, name, array, fits):
    """mmseg reads them modulo 256, before anybody can look at them."""
    path = tmp_path / name
    Image.fromarray(array).save(path)
    check(path)
    if fits:
        check(path, kind="label map", labels=True)
    else:
        with pytest.raises(UserError, match=r"label map .*/x\.\w+ has labels .* outside of 0 to"):
            check(path, kind="label map", labels=True)


def sized(height: int, width: int, shape: tuple) -> dict:
    return dict(img_path="a.jpg", ori_shape=shape, height=height, width=width)


def test_size():
    compare = CheckImageSize("x.json")
    for sample in (sized(4, 6, (4, 6)), sized(4, 6, (4, 6, 3)), dict(ori_shape=(4, 6)), dict()):
        assert compare(sample) is sample
    for height, width in ((5, 6), (4, 7)):
        with pytest.raises(UserError) as caught:
            compare(sized(4, 6, (height, width)))
        says = f"the image a.jpg is {height}x{width} (height x width), but 4x6 in x.json"
        assert str(caught.value) == says
    with pytest.raises(UserError, match=r"is 6x4 .*, but 4x6 in x.json \(is it turned by its EXIF"):
        compare(sized(4, 6, (6, 4)))


@pytest.mark.parametrize(
    ("name", "dtype"), [("a.png", np.uint8), ("a.png", np.uint16), ("b.jpg", np.uint8)]
)
def test_an_image_is_written_and_read_again(name, dtype, tmp_path):
    pixels = np.full((16, 24), np.iinfo(dtype).max // 3, dtype)
    (tmp_path / name).write_text("an earlier file")
    write_image(tmp_path / name, pixels)
    assert np.array_equal(cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED), pixels)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a", "a.docx", "a.png"])
def test_an_image_in_no_format_is_not_written(name, tmp_path):
    pixels = np.zeros((3, 4, 2 if name == "a.png" else 3), np.uint8)
    with pytest.raises(InvalidValue, match=rf"{name}: an array .* cannot be encoded as"):
        write_image(tmp_path / name, pixels)
    assert not list(tmp_path.iterdir())
