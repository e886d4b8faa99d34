"""A handful of images in the real formats, and configs of toy models that train on them."""

from __future__ import annotations

import json
from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"


def draw_data(directory: Path, count: int = 6) -> Path:
    """Draw images of one square or disk each: COCO boxes and label images beside them."""
    # Tests that need no images run where these are missing.
    import numpy as np
    from PIL import Image

    (directory / "images").mkdir(parents=True)
    (directory / "labels").mkdir()
    random = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(count):
        # Both orientations, so that batches are grouped by aspect ratio.
        height, width = (56, 72) if number % 2 else (72, 56)
        side = int(random.integers(16, 32))
        top, left = (int(random.integers(0, size - side)) for size in (height, width))
        rows, columns = np.mgrid[:height, :width]
        shape = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
        disk = number % 3 == 0
        if disk:
            centre = side / 2 - 0.5
            shape &= (rows - top - centre) ** 2 + (columns - left - centre) ** 2 <= (side / 2) ** 2
        image = random.integers(0, 120, (height, width, 3))
        image[shape] += 100
        name = f"{number:03d}"
        Image.fromarray(image.astype(np.uint8)).save(directory / "images" / f"{name}.jpg")
        Image.fromarray(shape.astype(np.uint8)).save(directory / "labels" / f"{name}.png")
        images.append(dict(id=number, file_name=f"{name}.jpg", height=height, width=width))
        annotations.append(
            dict(
                id=number + 1,
                image_id=number,
                category_id=1 + disk,
                bbox=[left, top, side, side],
                area=side * side,
                iscrowd=0,
            )
        )
    categories = [dict(id=1, name="square"), dict(id=2, name="disk")]
    coco = dict(images=images, annotations=annotations, categories=categories)
    (directory / "annotations.json").write_text(json.dumps(coco))
    return directory


def draw_depth(directory: Path) -> Path:
    """Draw a depth map of 16 bits, in millimeters, for each image of `draw_data`."""
    import cv2
    import numpy as np

    (directory / "depth").mkdir()
    for path in sorted((directory / "labels").glob("*.png")):
        shape = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) > 0
        depth = np.where(shape, 1500, np.linspace(4000, 2000, shape.shape[0])[:, None])
        depth[:3] = 0
        cv2.imwrite(str(directory / "depth" / path.name), depth.astype(np.uint16))
    return directory


def write_config(family: str, data: Path, path: Path, extra: str = "") -> Path:
    """Write the toy config ``'detector'``, ``'segmentor'`` or ``'depth'`` for a data directory."""
    text = (CONFIGS / f"{family}.py").read_text().replace("DATA", str(data))
    path.write_text(text + extra)
    return path
