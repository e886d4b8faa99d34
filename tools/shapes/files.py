"""The files of the data set: which there are, and how one picture's are written.

images/{training,validation}/ID.jpg                  pictures
{train,val}2017/ID.jpg                               the same files again (hard links)
annotations/instances_{train,val}2017.json           COCO boxes and masks
annotations/panoptic_{train,val}2017.json            COCO panoptic records
annotations/panoptic_{train,val}2017/ID.png            and their segments, id = R + 256 G + 65536 B
annotations/{training,validation}/ID.png             ADE20K label maps, 0 is no label
depth/{training,validation}/ID.png                   16 bits, mm
matting/{training,validation}/{alpha,fg,bg,trimap}/  the nearest thing's matte
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from .annotations import categories, instance_records, panoptic_segments
from .scene import draw_scene


@dataclass(frozen=True)
class Split:
    number: int
    coco: str
    ade: str

    def image_id(self, index: int) -> int:
        """No id occurs in two splits, and none depends on how many pictures there are."""
        return self.number * 10_000_000 + index + 1

    def stem(self, index: int) -> str:
        return f"{self.image_id(index):012d}"


SPLITS = (Split(0, "train2017", "training"), Split(1, "val2017", "validation"))
MATTES = ("alpha", "fg", "bg", "trimap")
MAX_IMAGES = 1_000_000
BYTES_PER_PIXEL, BYTES_PER_PICTURE = 3, 40_000
"""A picture with all its labels takes less than the sum of both on the disk."""


@dataclass(frozen=True)
class Arguments:
    """Everything that the data set's content depends on."""

    train: int
    val: int
    height: int
    width: int
    seed: int

    def count(self, split: Split) -> int:
        return (self.train, self.val)[split.number]

    def pictures(self) -> list[tuple[Split, int]]:
        return [(split, index) for split in SPLITS for index in range(self.count(split))]

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def expected_files(arguments: Arguments) -> list[str]:
    """Paths, relative to the data set's folder, that a whole data set has at least."""
    paths = []
    for split in SPLITS:
        paths += [f"annotations/{kind}_{split.coco}.json" for kind in ("instances", "panoptic")]
    for split, index in arguments.pictures():
        stem = split.stem(index)
        paths += [
            f"images/{split.ade}/{stem}.jpg",
            f"{split.coco}/{stem}.jpg",
            f"annotations/{split.ade}/{stem}.png",
            f"annotations/panoptic_{split.coco}/{stem}.png",
            f"depth/{split.ade}/{stem}.png",
        ]
    return paths


def make_folders(root: Path) -> None:
    for split in SPLITS:
        folders = [
            f"images/{split.ade}",
            split.coco,
            f"annotations/{split.ade}",
            f"annotations/panoptic_{split.coco}",
            f"depth/{split.ade}",
            *(f"matting/{split.ade}/{kind}" for kind in MATTES),
        ]
        for folder in folders:
            (root / folder).mkdir(parents=True, exist_ok=True)


def write_picture(root: Path, arguments: Arguments, split: Split, index: int) -> dict:
    """Draw one picture and write its files.

    Returns:
        Its records for the split's JSON files: image, instances, panoptic.
    """
    scene = draw_scene(arguments.seed, split.number, index, arguments.height, arguments.width)
    image_id, stem = split.image_id(index), split.stem(index)
    colors, segments = panoptic_segments(scene)

    picture = root / "images" / split.ade / f"{stem}.jpg"
    _write_jpeg(picture, scene.image)
    _link(picture, root / split.coco / picture.name)
    _write_png(root / "annotations" / split.ade / f"{stem}.png", scene.semantic)
    _write_png(root / f"annotations/panoptic_{split.coco}" / f"{stem}.png", colors[..., ::-1])
    _write_png(root / "depth" / split.ade / f"{stem}.png", scene.depth)
    if scene.matte is not None:
        mattes = root / "matting" / split.ade
        _write_png(mattes / "alpha" / f"{stem}.png", scene.matte.alpha)
        _write_jpeg(mattes / "fg" / f"{stem}.jpg", scene.matte.foreground)
        _write_jpeg(mattes / "bg" / f"{stem}.jpg", scene.matte.background)
        _write_png(mattes / "trimap" / f"{stem}.png", scene.matte.trimap)
    return {
        "image": {
            "id": image_id,
            "file_name": picture.name,
            "height": arguments.height,
            "width": arguments.width,
        },
        "instances": instance_records(scene, image_id),
        "panoptic": {
            "image_id": image_id,
            "file_name": f"{stem}.png",
            "segments_info": segments,
        },
    }


def write_annotations(root: Path, split: Split, records: list[dict]) -> None:
    """Write a split's JSON files from the records of its pictures, in their order."""
    info = {"description": "Shapes: drawn by mmdysample's tools/make_shapes.py", "version": "1"}
    images = [record["image"] for record in records]
    instances = {
        "info": info,
        "licenses": [],
        "images": images,
        "annotations": [record for picture in records for record in picture["instances"]],
        "categories": categories(things_only=True),
    }
    panoptic = {
        "info": info,
        "licenses": [],
        "images": images,
        "annotations": [record["panoptic"] for record in records],
        "categories": categories(things_only=False),
    }
    for kind, content in (("instances", instances), ("panoptic", panoptic)):
        path = root / "annotations" / f"{kind}_{split.coco}.json"
        path.write_text(json.dumps(content, separators=(",", ":")))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links; a full one fails at the copy, too
        shutil.copyfile(source, target)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    _encode(path, pixels, [])


def _write_jpeg(path: Path, rgb: np.ndarray) -> None:
    # full colour resolution: the default halves it, which blurs coloured edges
    full = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _encode(path, rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95, *full])


def _encode(path: Path, pixels: np.ndarray, parameters: list[int]) -> None:
    # cv2.imwrite only returns False on a full disk; write_bytes says what went wrong
    encoded, content = cv2.imencode(path.suffix, np.ascontiguousarray(pixels), parameters)
    if not encoded:
        raise RuntimeError(f"OpenCV {cv2.__version__} cannot encode {path.suffix} files")
    path.write_bytes(content.tobytes())
