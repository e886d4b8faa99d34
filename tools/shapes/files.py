"""The files of the data set: which there are, and how one image's are written.

images/{training,validation}/ID.jpg                  images
{train,val}2017/ID.jpg                               the same files again (hard links)
annotations/instances_{train,val}2017.json           COCO boxes and masks
annotations/panoptic_{train,val}2017.json            COCO panoptic records
annotations/panoptic_{train,val}2017/ID.png            and their segments, id = R + 256 G + 65536 B
annotations/{training,validation}/ID.png             ADE20K label maps, 0 is no label
depth/{training,validation}/ID.png                   16 bits, mm
matting/{training,validation}/{alpha,fg,bg,trimap}/  the nearest object's matte
shapes.json                                          the arguments, written last
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from .annotations import categories, instance_records, panoptic_segments
from .scene import draw_scene

MARKER = "shapes.json"
VERSION = 2
"""Raised when the same arguments give other files."""
MAX_IMAGES = 1_000_000
BYTES_PER_PIXEL, BYTES_PER_IMAGE = 3, 40_000
"""An image with all its labels takes less than the sum of both on the disk."""


class Split(NamedTuple):
    number: int
    coco: str
    ade: str

    def image_id(self, index: int) -> int:
        """No id occurs in two splits, and none depends on how many images there are."""
        return self.number * 10_000_000 + index + 1


SPLITS = (Split(0, "train2017", "training"), Split(1, "val2017", "validation"))


class Arguments(NamedTuple):
    """Everything that the data set's content depends on."""

    train: int
    val: int
    height: int
    width: int
    seed: int

    def __str__(self) -> str:
        return f"{self.train} + {self.val} images of {self.height}x{self.width}, seed {self.seed}"

    def marker(self) -> bytes:
        """What the file that is written last says."""
        content = dict(tool="mmdysample make_shapes", version=VERSION, arguments=self._asdict())
        return json.dumps(content, indent=1).encode() + b"\n"


def write_image(root: Path, arguments: Arguments, split: Split, index: int) -> dict:
    """Draw one image and write its files.

    Returns:
        Its records for the split's JSON files: image, instances, panoptic.
    """
    scene = draw_scene(arguments.seed, split.number, index, arguments.height, arguments.width)
    image_id = split.image_id(index)
    jpg, png = f"{image_id:012d}.jpg", f"{image_id:012d}.png"
    colors, segments = panoptic_segments(scene)

    image = root / "images" / split.ade / jpg
    _write(image, scene.image)
    _link(image, root / split.coco / jpg)
    _write(root / "annotations" / split.ade / png, scene.semantic)
    _write(root / "annotations" / f"panoptic_{split.coco}" / png, colors)
    _write(root / "depth" / split.ade / png, scene.depth)
    if scene.matte is not None:
        mattes = root / "matting" / split.ade
        _write(mattes / "alpha" / png, scene.matte.alpha)
        _write(mattes / "fg" / jpg, scene.matte.foreground)
        _write(mattes / "bg" / jpg, scene.matte.background)
        _write(mattes / "trimap" / png, scene.matte.trimap)
    return dict(
        image=dict(id=image_id, file_name=jpg, height=arguments.height, width=arguments.width),
        instances=instance_records(scene, image_id),
        panoptic=dict(image_id=image_id, file_name=png, segments_info=segments),
    )


def write_annotations(root: Path, split: Split, records: list[dict]) -> None:
    """Write a split's JSON files from the records of its images, in their order."""
    instances = [instance for record in records for instance in record["instances"]]
    panoptic = [record["panoptic"] for record in records]
    for kind, found in (("instances", instances), ("panoptic", panoptic)):
        content = {
            "info": {
                "description": "Shapes: drawn by mmdysample's tools/make_shapes.py",
                "version": "1",
            },
            "licenses": [],
            "images": [record["image"] for record in records],
            "annotations": found,
            "categories": categories(with_stuff=kind == "panoptic"),
        }
        path = root / "annotations" / f"{kind}_{split.coco}.json"
        path.write_text(json.dumps(content, separators=(",", ":")))


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links; a full one fails at the copy, too
        shutil.copyfile(source, target)


def _write(path: Path, pixels: np.ndarray) -> None:
    """Write an array, in color if it is (H, W, 3) RGB."""
    if pixels.ndim == 3:
        pixels = pixels[..., ::-1]
    # full color resolution: the default halves it, which blurs colored edges
    jpeg = [cv2.IMWRITE_JPEG_QUALITY, 95]
    jpeg += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    # cv2.imwrite only returns False on a full disk; write_bytes says what went wrong
    encoded, content = cv2.imencode(
        path.suffix, np.ascontiguousarray(pixels), jpeg if path.suffix == ".jpg" else []
    )
    if not encoded:
        raise RuntimeError(f"OpenCV {cv2.__version__} cannot encode {path.suffix} files")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.tobytes())
