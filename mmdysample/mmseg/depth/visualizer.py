"""Drawings of depth."""

from __future__ import annotations

import math

import cv2
import mmcv
import numpy as np
import torch
from matplotlib.ticker import MaxNLocator
from mmengine.dist import master_only
from mmengine.structures import PixelData
from mmseg.registry import VISUALIZERS
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer

from mmdysample.mmseg.panels import (
    BLACK,
    WHITE,
    enlarge,
    lay_out,
    text_height,
    text_width,
    write_text,
)

# near is bright, as in the papers' figures
COLORMAP = cv2.COLORMAP_MAGMA
UNKNOWN = (128, 128, 128)
CAPTIONS = dict(gt_depth_map="true depth", pred_depth_map="predicted depth")
LEAST_SCALE = 120
"""Pixels: the scale of a lower image is higher than that."""


@VISUALIZERS.register_module()
class DepthLocalVisualizer(SegLocalVisualizer):
    """mmseg's SegLocalVisualizer, which draws depth in color with a scale in meters.

    From left to right: the image, the true depth if there is one, the predicted depth, the scale.
    Both depths have one scale, from the least to the greatest true depth of the image, else the
    predicted one; what lies outside of it has the color of its end. Near is bright; pixels whose
    true depth is not known are gray. Small images are enlarged. Samples without depth are drawn as
    mmseg does.
    """

    @master_only
    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: SegDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        step: int = 0,
        with_labels: bool | None = True,
    ) -> None:
        """Draw the depth of a sample beside its image (H, W, 3), uint8, RGB."""
        wanted = (("gt_depth_map", draw_gt), ("pred_depth_map", draw_pred))
        keys = [key for key, draw in wanted if draw and data_sample is not None]
        maps = {CAPTIONS[key]: _depth(data_sample.get(key)) for key in keys if key in data_sample}
        if not maps:
            options = (draw_gt, draw_pred, show, wait_time, out_file, step, with_labels)
            super().add_datasample(name, image, data_sample, *options)
            return
        drawn = draw_depths(image, maps)
        self.set_image(drawn)
        if show:
            self.show(drawn, win_name=name, wait_time=wait_time)
        if out_file is not None:
            mmcv.imwrite(mmcv.rgb2bgr(drawn), out_file)
        else:
            self.add_image(name, drawn, step)


def draw_depths(image: np.ndarray, maps: dict[str, np.ndarray]) -> np.ndarray:
    """An image, depth maps of it in color, and their scale, side by side.

    Args:
        image: (H, W, 3), uint8, RGB.
        maps: by their captions, each (h, w) in meters, drawn in the size of the image; not known
            where it is not above 0 or not finite. The first with a known pixel gives the scale.

    Returns:
        The drawing as `lay_out` makes it, uint8, RGB.
    """
    height, width = image.shape[:2]
    near, far = _range(list(maps.values()))
    panels = [("image", enlarge(image))]
    for caption, depth in maps.items():
        if depth.shape != (height, width):
            depth = cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST)
        panels.append((caption, enlarge(color_depth(depth, near, far))))
    scale = draw_scale(max(panels[0][1].shape[0], LEAST_SCALE), near, far)
    return lay_out([*panels, ("meters", scale)])


def color_depth(depth: np.ndarray, near: float, far: float) -> np.ndarray:
    """Depth (H, W) as colors (H, W, 3), uint8, RGB: ``near`` is bright, ``far`` dark."""
    known = _is_known(depth)
    position = (np.where(known, depth, far) - near) / (far - near)
    index = np.round(255 * (1 - position.clip(0, 1))).astype(np.uint8)
    colors = np.ascontiguousarray(cv2.applyColorMap(index, COLORMAP)[..., ::-1])
    colors[~known] = UNKNOWN
    return colors


def draw_scale(height: int, near: float, far: float) -> np.ndarray:
    """A bar of colors with meters beside it, (height, w, 3), uint8, RGB; far is at the top."""
    line = text_height(height)
    ticks = round_numbers(near, far, max(2, min(6, int(height // (3 * line)))))
    bar_width, gap = round(line), round(line / 2)
    width = bar_width + gap + max(text_width(text, height) for _, text in ticks)
    scale = np.full((height, width, 3), WHITE, np.uint8)
    rows = np.linspace(far, near, height)
    scale[:, :bar_width] = color_depth(np.repeat(rows[:, None], bar_width, axis=1), near, far)
    for value, text in ticks:
        row = round((far - value) / (far - near) * (height - 1))
        scale[row, bar_width : bar_width + gap // 2] = BLACK
        half = round(line / 2)
        write_text(scale, text, bar_width + gap, min(max(row, half), height - 1 - half), height)
    return scale


def round_numbers(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Up to ``most + 1`` multiples of 1, 2 or 5 times a power of 10 in a range, and their texts."""
    found = MaxNLocator(nbins=most, steps=(1, 2, 5, 10)).tick_values(low, high)
    step = found[1] - found[0]
    digits = max(0, -math.floor(math.log10(step * 1.001)))
    slack = step * 1e-6  # ticks are sums of floating point numbers
    inside = [value for value in found if low - slack <= value <= high + slack]
    return [(min(max(value, low), high), f"{value:.{digits}f}") for value in inside or [low]]


def _range(maps: list[np.ndarray]) -> tuple[float, float]:
    """The least and the greatest known depth of the first map that has any."""
    for depth in maps:
        known = depth[_is_known(depth)]
        if known.size:
            near, far = float(known.min()), float(known.max())
            return near, far if far > near else near * (1 + 1e-3)
    return 0.0, 1.0


def _is_known(depth: np.ndarray) -> np.ndarray:
    return np.isfinite(depth) & (depth > 0)


def _depth(field: PixelData) -> np.ndarray:
    """(H, W), float64, of a sample's depth (1, H, W)."""
    return torch.as_tensor(field.data).detach().cpu().double().squeeze(0).numpy()
