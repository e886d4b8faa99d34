"""Label maps of semantic segmentation: that every image has one, and what they hold.

Without it an image whose name ends otherwise is left out in silence, and a label map of another
size than its image is cropped along with it and trains the wrong labels, or fails where samples are
put together, in words that name no file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.logging import print_log

from mmdysample.errors import UserError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
FILE = "file"


class LabelMapCheck:
    """A transform that follows the one that loads labels.

    Args:
        num_classes: labels run from 0 to this, without it; None if the data set does not say.
        ignore_index: the label of pixels that do not count.
    """

    def __init__(self, num_classes: int | None, ignore_index: int) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def __call__(self, results: dict) -> dict:
        """The same results.

        Raises:
            UserError: the label map has several channels, is not of the image's size, or has a
                label that is none of the classes.
        """
        labels, size = results.get("gt_seg_map"), results.get("ori_shape")
        if labels is None or size is None:
            return results
        path = results.get("seg_map_path", "a label map")
        if labels.ndim != 2:
            raise UserError(
                f"the label map {path} has {labels.shape[-1]} channels: a label map is an image of "
                "one channel, or of a palette, whose values are the labels"
            )
        if tuple(labels.shape) != tuple(size[:2]):
            raise UserError(
                f"the label map {path} is {labels.shape[0]}x{labels.shape[1]} (height x width), "
                f"but its image {results.get('img_path')} is {size[0]}x{size[1]}"
            )
        if self.num_classes is not None:
            wrong = labels[(labels >= self.num_classes) & (labels != self.ignore_index)]
            if wrong.size:
                raise UserError(
                    f"the label map {path} has label {wrong.flat[0]}, but the data set has "
                    f"{self.num_classes} classes, 0 to {self.num_classes - 1}, and "
                    f"{self.ignore_index} for pixels that do not count"
                )
        return results


def check_directories(dataset: Any, labelled: bool) -> None:
    """Check what mmseg's BaseSegDataset will find in its directories, before it looks.

    Args:
        dataset: has ``data_prefix``, ``img_suffix`` and ``seg_map_suffix``.
        labelled: whether its label maps are loaded.

    Raises:
        UserError: an image would be left out, since its name does not end with ``img_suffix`` or it
            is a directory or a link to nothing; or an image has no label map.
    """
    image_dir, label_dir = (dataset.data_prefix.get(key) for key in ("img_path", "seg_map_path"))
    suffix, label_suffix = dataset.img_suffix, dataset.seg_map_suffix
    if not image_dir or "://" in image_dir or dataset.backend_args:
        return
    if dataset.ann_file and not os.path.isdir(dataset.ann_file):
        # A list of the images to take, which leaves out on purpose.
        if not os.path.isfile(dataset.ann_file):
            raise UserError(f"the list of images {dataset.ann_file}: no such file")
        return
    labelled = labelled and label_dir is not None
    try:
        entries = dict(_walk(image_dir))
        found = dict(_walk(label_dir)) if labelled and os.path.isdir(label_dir) else {}
    except OSError as error:
        raise UserError(
            f"the directory {error.filename} cannot be read: {os.strerror(error.errno).lower()}"
        ) from error
    taken, labels = _stems(entries, suffix), _stems(found, label_suffix)

    left_out = {}
    for name, what in entries.items():
        stem = _stem(name, suffix)
        if what != FILE and name.lower().endswith(suffix.lower()):
            left_out[name] = f"is a {what}"
        elif (
            what == FILE
            and stem not in taken
            and _may_be_image(name, suffix, stem in labels)
            # Label maps may lie beside the images.
            and (label_dir != image_dir or name != stem + label_suffix)
        ):
            left_out[name] = f"does not end with img_suffix={suffix!r}"
    if left_out:
        first = min(left_out)
        raise UserError(
            f"{len(left_out)} of the images in {image_dir} would be left out: "
            f"{os.path.join(image_dir, first)} {left_out[first]}"
        )
    if not labelled:
        return
    missing = sorted(taken - labels)
    if missing:
        raise UserError(
            f"{len(missing)} of {len(taken)} images in {image_dir} have no label map: "
            f"{os.path.join(label_dir, missing[0] + label_suffix)}: no such file"
        )
    extra = sorted(labels - taken)
    if extra:
        # Several splits of the images may share one directory of label maps.
        print_log(
            f"{len(extra)} label maps in {label_dir} have no image in {image_dir}, such as "
            f"{extra[0] + label_suffix}",
            logger="current",
            level=logging.WARNING,
        )


def _walk(directory: str, below: str = "") -> Iterator[tuple[str, str]]:
    """Names below a directory, and what each is; hidden files are left out, as mmengine does."""
    for entry in os.scandir(directory):
        name = os.path.join(below, entry.name)
        if entry.is_dir():
            yield name, "directory"
            yield from _walk(entry.path, name)
        elif not entry.name.startswith("."):
            yield name, FILE if entry.is_file() else "link to nothing, or no regular file"


def _stems(entries: Mapping[str, str], suffix: str) -> set[str]:
    """What files are called that end with a suffix, without it."""
    return {
        name[: len(name) - len(suffix)]
        for name, what in entries.items()
        if what == FILE and name.endswith(suffix)
    }


def _stem(name: str, suffix: str) -> str:
    """What a file would be called without the suffix if it ended with it but for the extension."""
    return os.path.splitext(name)[0].removesuffix(suffix.rpartition(".")[0])


def _may_be_image(name: str, suffix: str, has_label: bool) -> bool:
    lower = name.lower()
    return lower.endswith(suffix.lower()) or (has_label and lower.endswith(IMAGE_EXTENSIONS))
