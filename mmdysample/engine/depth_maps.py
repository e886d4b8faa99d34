"""Depth maps: that every image has one and the reverse, their files, their size and their unit.

Without it maps of 8 bits or in color train as depth, one of another size than its image is cropped
along with it, millimeters that are taken for meters train without a word, and a file name without a
digit ends in a StopIteration.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmdysample.engine.labels import check_directories
from mmdysample.errors import UserError
from mmdysample.images import check_image_file

# The greatest depth of a map in meters: below the first it was stored in meters and read as
# millimeters, above the second the other way round.
PLAUSIBLE = (0.1, 1000.0)


class CheckDepthFile:
    """A transform that stands before the one that loads a depth map from an image file."""

    def __call__(self, results: dict) -> dict:
        """The same results; UserError as `check_depth_file` raises it."""
        path = results.get("depth_map_path")
        if path is not None and "://" not in str(path):
            check_depth_file(str(path))
        return results


class CheckDepthMap:
    """A transform that follows the one that loads a depth map."""

    def __call__(self, results: dict) -> dict:
        """The same results; UserError as `check_depth` raises it."""
        if "gt_depth_map" in results:
            check_depth(results)
        return results


def check_depth_file(path: str) -> None:
    """Check the file of a depth map by its header, before it is decoded.

    Raises:
        UserError: as `check_image_file`, or it has 8 bits or several channels.
    """
    check_image_file(path, "depth map")
    try:
        with Image.open(path) as image:
            mode, channels = image.mode, len(image.getbands())
    except UnidentifiedImageError:
        return  # a format that OpenCV alone knows
    if channels > 1 or mode[0] not in "IF":
        what = f"has {channels} channels" if channels > 1 else "has 8 bits or less"
        raise UserError(
            f"the depth map {path} {what}: a depth map is a PNG file of 16 bits and one channel, "
            "such as one in millimeters"
        )


def check_depth(sample: dict) -> None:
    """Check the depth map of a sample: ``gt_depth_map`` in meters, from ``depth_map_path``.

    Raises:
        UserError: it has several channels, is not of the size of an image that was loaded before,
            or its greatest depth is none in meters.
    """
    depth, path = sample["gt_depth_map"], sample.get("depth_map_path")
    if depth.ndim != 2:
        raise UserError(f"the depth map {path} has {depth.shape[-1]} channels, it must have one")
    height, width = sample.get("ori_shape", depth.shape)[:2]
    if depth.shape != (height, width):
        raise UserError(
            f"the depth map {path} is {depth.shape[0]}x{depth.shape[1]} (height x width), but its "
            f"image {sample.get('img_path')} is {height}x{width}"
        )
    known = depth[np.isfinite(depth) & (depth > 0)]
    low, high = PLAUSIBLE
    if known.size and not low <= known.max() <= high:
        raise UserError(
            f"the greatest depth in {path} is {known.max():.4g} m with depth_rescale_factor="
            f"{sample.get('depth_rescale_factor')}, which is not between {low} and {high:g} m: "
            "depth_rescale_factor of LoadDepthAnnotation is what one unit of the file is in "
            "meters, 1e-3 for millimeters"
        )


def check_depth_directories(dataset: Any, labeled: bool) -> None:
    """Check what mmseg's NYUDataset will find in its directories, before it looks.

    Args:
        dataset: has ``data_prefix``, ``img_suffix`` and ``seg_map_suffix``.
        labeled: whether its depth maps are loaded.

    Raises:
        UserError: as `labels.check_directories` for depth maps; the name of an image has no digit;
            an ``ann_file`` is given, which the data set would ignore.
    """
    if dataset.ann_file:
        raise UserError(
            f"{type(dataset).__name__} takes all images in its directory and would ignore "
            f"ann_file={dataset.ann_file!r}: leave it out, and give each split its own directory"
        )
    needed = ["img_path", *(["depth_map_path"] if labeled else [])]
    missing = [key for key in needed if not dataset.data_prefix.get(key)]
    if missing:
        raise UserError(
            f"data_prefix of {type(dataset).__name__} needs the key {missing[0]!r}, got "
            f"{dict(dataset.data_prefix)}"
        )
    stems = check_directories(dataset, labeled, "depth_map_path", "depth map", paired=True)
    # The data set takes what stands before the first digit for the name of a scene.
    unnumbered = [
        name
        for name in (stem + dataset.img_suffix for stem in sorted(stems))
        if not any(map(str.isdigit, os.path.basename(name)))
    ]
    if unnumbered:
        first = os.path.join(dataset.data_prefix["img_path"], unnumbered[0])
        raise UserError(
            f"{len(unnumbered)} of {len(stems)} images have no digit in their names, which "
            f"{type(dataset).__name__} needs: {first}; name them as in kitchen_00045"
            f"{dataset.img_suffix}"
        )
