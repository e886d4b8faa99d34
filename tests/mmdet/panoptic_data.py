"""Small panoptic data sets: files in COCO's format, and predictions as mmdet's models give them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.evaluation.functional import INSTANCE_OFFSET

# Ids with holes, as COCO's; two things, then two classes of stuff.
CATEGORIES = [
    dict(id=1, name="cat", isthing=1),
    dict(id=4, name="dog", isthing=1),
    dict(id=90, name="sky", isthing=0),
    dict(id=91, name="sea", isthing=0),
]
CLASSES = tuple(category["name"] for category in CATEGORIES)
META = dict(classes=CLASSES, thing_classes=CLASSES[:2], stuff_classes=CLASSES[2:])
LABELS = {category["id"]: label for label, category in enumerate(CATEGORIES)}
VOID_LABEL = len(CATEGORIES)


class Example:
    """A true map (H, W) of ids, its records, and a predicted map of mmdet's ids."""

    def __init__(self, ids, categories: dict[int, int], crowds=(), prediction=None) -> None:
        self.ids = np.asarray(ids, np.int64)
        self.records = []
        for segment, category in categories.items():
            rows, columns = np.nonzero(self.ids == segment)
            box = [0, 0, 0, 0]
            if rows.size:
                x, y = int(columns.min()), int(rows.min())
                box = [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]
            self.records.append(
                dict(
                    id=segment,
                    category_id=category,
                    iscrowd=int(segment in crowds),
                    area=int(rows.size),
                    bbox=box,
                )
            )
        self.prediction = None if prediction is None else np.asarray(prediction, np.int64)

    def predicted_records(self) -> list[dict]:
        """As panopticapi's results have them, with mmdet's ids."""
        ids = [i for i in np.unique(self.prediction).tolist() if i % INSTANCE_OFFSET != VOID_LABEL]
        return [dict(id=i, category_id=CATEGORIES[i % INSTANCE_OFFSET]["id"], area=0) for i in ids]


def write(root: Path, examples: list[Example], **changes) -> Path:
    """``images/``, ``segments/`` and ``panoptic.json``, whose keys ``changes`` replaces."""
    (root / "images").mkdir(parents=True)
    (root / "segments").mkdir()
    images, annotations = [], []
    for i, example in enumerate(examples, start=1):
        height, width = example.ids.shape
        cv2.imwrite(str(root / f"images/{i:03}.jpg"), np.full((height, width, 3), 40 * i % 256))
        blue_green_red = np.stack([example.ids >> 16, example.ids >> 8 & 255, example.ids & 255], 2)
        cv2.imwrite(str(root / f"segments/{i:03}.png"), blue_green_red.astype(np.uint8))
        images.append(dict(id=i, file_name=f"{i:03}.jpg", height=height, width=width))
        annotations.append(dict(image_id=i, file_name=f"{i:03}.png", segments_info=example.records))
    content = dict(images=images, annotations=annotations, categories=CATEGORIES) | changes
    (root / "panoptic.json").write_text(json.dumps(content))
    return root


def samples(root: Path, examples: list[Example]) -> list[dict]:
    """What the model's predictions are when they reach a metric."""
    return [
        dict(
            img_id=i,
            img_path=str(root / f"images/{i:03}.jpg"),
            ori_shape=example.ids.shape,
            pred_panoptic_seg=dict(sem_seg=torch.tensor(example.prediction[None]).int()),
        )
        for i, example in enumerate(examples, start=1)
    ]


def draw_examples(seed: int, count: int) -> list[Example]:
    """Random blocks, crowds and void, and predictions that agree in part."""
    random = np.random.default_rng(seed)
    examples = []
    for _ in range(count):
        height, width = random.integers(10, 25, 2)
        colors = [int(c) for c in random.choice(2**24 - 1, 12, replace=False) + 1]
        categories = {c: int(random.choice(list(LABELS))) for c in colors}
        ids = np.zeros((height, width), np.int64)
        for color in colors:
            paint(random, ids, color)
        paint(random, ids, 0)
        present = set(np.unique(ids).tolist()) - {0}
        categories = {c: category for c, category in categories.items() if c in present}
        # At most one crowd of a class, as in COCO.
        crowds, crowded = set(), set()
        for color, category in categories.items():
            if LABELS[category] < 2 and category not in crowded and random.random() < 0.3:
                crowds.add(color)
                crowded.add(category)

        prediction = np.full((height, width), VOID_LABEL, np.int64)
        instance = 0
        for color, category in categories.items():
            label = LABELS[category] if random.random() < 0.9 else int(random.integers(4))
            if label < 2:
                instance += 1
                label += instance * INSTANCE_OFFSET
            shifted = np.roll(ids == color, random.integers(-1, 2, 2), (0, 1))
            prediction[shifted] = label
        instance += 1
        paint(random, prediction, int(random.integers(2)) + instance * INSTANCE_OFFSET)
        if random.random() < 0.5:
            paint(random, prediction, VOID_LABEL)
        examples.append(Example(ids, categories, crowds, prediction))
    return examples


def paint(random: np.random.Generator, rows: np.ndarray, value: int) -> None:
    """Fill a random rectangle."""
    top, left = (int(random.integers(length)) for length in rows.shape)
    height, width = random.integers(2, 12, 2)
    rows[top : top + height, left : left + width] = value
