"""Label maps of semantic segmentation: that every image has one, and what they hold.

Without it an image whose name ends otherwise is left out in silence, and a label map of another
size than its image is cropped along with it and trains the wrong labels, or fails where samples are
put together, in words that name no file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from mmdysample.errors import UserError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
FILE = "file"


class CheckLabelMap:
    """A transform that follows the one that loads labels.

    Args:
        num_classes: labels run from 0 to this, without it; None if the data set does not say.
        ignore_index: the label of pixels that do not count.
    """

    def __init__(self, num_classes: int | None, ignore_index: int) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def __call__(self, results: dict) -> dict:
        """The same results; UserError as `check_labels` raises it."""
        if "gt_seg_map" in results:
            check_labels(results, self.num_classes, self.ignore_index)
        return results


def check_labels(sample: dict, num_classes: int | None, ignore_index: int) -> None:
    """Check the label map of a sample: ``gt_seg_map``, as it was loaded from ``seg_map_path``.

    Raises:
        UserError: it has several channels, is not of the size of an image that was loaded before,
            or has a label that is none of the classes.
    """
    labels, path = sample["gt_seg_map"], sample.get("seg_map_path")
    if labels.ndim != 2:
        raise UserError(
            f"the label map {path} has {labels.shape[-1]} channels: a label map is an image of "
            "one channel, or of a palette, whose values are the labels"
        )
    # A pipeline may load labels before the image, whose size nobody knows then.
    height, width = sample.get("ori_shape", labels.shape)[:2]
    if labels.shape != (height, width):
        raise UserError(
            f"the label map {path} is {labels.shape[0]}x{labels.shape[1]} (height x width), "
            f"but its image {sample.get('img_path')} is {height}x{width}"
        )
    if num_classes is None:
        return
    wrong = labels[(labels >= num_classes) & (labels != ignore_index)]
    if wrong.size:
        raise UserError(
            f"the label map {path} has label {wrong[0]}, but the data set has {num_classes} "
            f"classes, 0 to {num_classes - 1}, and {ignore_index} for pixels that do not count"
        )


def check_directories(
    dataset: Any,
    labeled: bool,
    label_key: str = "seg_map_path",
    kind: str = "label map",
    paired: bool = False,
) -> set[str]:
    """Check what mmseg's BaseSegDataset will find in its directories, before it looks.

    Args:
        dataset: has ``data_prefix``, ``img_suffix`` and ``seg_map_suffix``.
        labeled: whether its label maps are loaded.
        label_key: of the directory of label maps in ``data_prefix``.
        kind: what a label map is, for the messages.
        paired: whether each label map must have an image, too.

    Returns:
        The names of its images, without their suffix, as far as they were looked for here.

    Raises:
        UserError: an image would be left out, since its name does not end with ``img_suffix`` or it
            is a directory or a link to nothing; an image has no label map or,
            if ``paired``, a label map no image.
    """
    image_dir, label_dir = (dataset.data_prefix.get(key) for key in ("img_path", label_key))
    suffix, label_suffix = dataset.img_suffix, dataset.seg_map_suffix
    if not image_dir or "://" in image_dir or dataset.backend_args:
        return set()
    if dataset.ann_file and not os.path.isdir(dataset.ann_file):
        # A list of the images to take, which leaves out on purpose.
        if not os.path.isfile(dataset.ann_file):
            raise UserError(f"the list of images {dataset.ann_file}: no such file")
        return set()
    labeled = labeled and label_dir is not None
    found = dict(_walk(image_dir))
    labels = _stems(dict(_walk(label_dir)) if labeled else {}, label_suffix)
    taken = _stems(found, suffix)

    left_out = {}
    for name, what in found.items():
        stem = os.path.splitext(name)[0].removesuffix(os.path.splitext(suffix)[0])
        named_like = name.lower().endswith(suffix.lower())
        if what != FILE:
            if named_like:
                left_out[name] = f"is a {what}"
            continue
        if stem in taken or (label_dir == image_dir and name == stem + label_suffix):
            continue
        if named_like or (stem in labels and name.lower().endswith(IMAGE_EXTENSIONS)):
            left_out[name] = f"does not end with img_suffix={suffix!r}"
    if left_out:
        first = min(left_out)
        raise UserError(
            f"{len(left_out)} of the images in {image_dir} would be left out: "
            f"{os.path.join(image_dir, first)} {left_out[first]}"
        )
    missing = sorted(taken - labels)
    if labeled and missing:
        raise UserError(
            f"{len(missing)} of {len(taken)} images in {image_dir} have no {kind}: "
            f"{os.path.join(label_dir, missing[0] + label_suffix)}: no such file"
        )
    alone = sorted(labels - taken) if paired else []
    if alone:
        raise UserError(
            f"{len(alone)} of {len(labels)} {kind}s in {label_dir} have no image: "
            f"{os.path.join(image_dir, alone[0] + suffix)}: no such file"
        )
    return taken


def _walk(directory: str, below: str = "") -> Iterator[tuple[str, str]]:
    """Names below a directory, and what each is; hidden files are left out, as mmengine does."""
    try:
        entries = list(os.scandir(directory))
    except OSError as error:
        reason = os.strerror(error.errno).lower()
        raise UserError(f"the directory {directory} cannot be read: {reason}") from error
    for entry in entries:
        name = os.path.join(below, entry.name)
        if entry.is_dir():
            yield name, "directory"
            yield from _walk(entry.path, name)
        elif not entry.name.startswith("."):
            yield name, FILE if entry.is_file() else "link to nothing, or not a regular file"


def _stems(found: dict[str, str], suffix: str) -> set[str]:
    """Names of the files that end with a suffix, without it."""
    return {
        name[: len(name) - len(suffix)]
        for name, what in found.items()
        if what == FILE and name.endswith(suffix)
    }
