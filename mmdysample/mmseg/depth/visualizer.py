"""Drawings of depth."""

from __future__ import annotations

import cv2
import mmcv
import numpy as np
import torch
from mmengine.dist import master_only
from mmengine.structures import PixelData
from mmseg.registry import VISUALIZERS
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer

# near is bright, as in the papers' figures
COLORMAP = cv2.COLORMAP_MAGMA
UNKNOWN = (128, 128, 128)
SCALE_WIDTH = 76
_BAR_WIDTH, _GAP = 10, 4
_FONT, _TEXT_HEIGHT = cv2.FONT_HERSHEY_SIMPLEX, 10


@VISUALIZERS.register_module()
class DepthLocalVisualizer(SegLocalVisualizer):
    """mmseg's SegLocalVisualizer, which draws depth in color with a scale in meters.

    From left to right: the image, the true depth if there is one, the predicted depth, the scale.
    Both depths have one scale, from the least to the greatest true depth of the image, else the
    predicted one; what lies outside of it has the color of its end. Near is bright; pixels whose
    true depth is not known are gray. Samples without depth are drawn as mmseg does.
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
        maps = [_depth(data_sample.get(key)) for key in keys if key in data_sample]
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


def draw_depths(image: np.ndarray, maps: list[np.ndarray]) -> np.ndarray:
    """An image, depth maps of it in color, and their scale, side by side.

    Args:
        image: (H, W, 3), uint8, RGB.
        maps: each (h, w) in meters, drawn in the size of the image; not known where it is not above
            0 or not finite. The first with a known pixel gives the scale.

    Returns:
        (H, W * (1 + len(maps)) + SCALE_WIDTH, 3), uint8, RGB.
    """
    height, width = image.shape[:2]
    near, far = _range(maps)
    parts = [image]
    for depth in maps:
        if depth.shape != (height, width):
            depth = cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST)
        parts.append(color_depth(depth, near, far))
    return np.concatenate([*parts, draw_scale(height, near, far)], axis=1)


def color_depth(depth: np.ndarray, near: float, far: float) -> np.ndarray:
    """Depth (H, W) as colors (H, W, 3), uint8, RGB: ``near`` is bright, ``far`` dark."""
    known = _is_known(depth)
    position = (np.where(known, depth, far) - near) / (far - near)
    index = np.round(255 * (1 - position.clip(0, 1))).astype(np.uint8)
    colors = np.ascontiguousarray(cv2.applyColorMap(index, COLORMAP)[..., ::-1])
    colors[~known] = UNKNOWN
    return colors


def draw_scale(height: int, near: float, far: float) -> np.ndarray:
    """The scale (height, SCALE_WIDTH, 3) with meters beside it, uint8, RGB; far is at the top."""
    scale = np.full((height, SCALE_WIDTH, 3), 255, np.uint8)
    rows = np.linspace(far, near, height)
    bar = color_depth(np.repeat(rows[:, None], _BAR_WIDTH, axis=1), near, far)
    scale[:, _GAP : _GAP + _BAR_WIDTH] = bar
    count = max(2, min(6, height // (3 * _TEXT_HEIGHT)))
    for row in np.linspace(0, height - 1, count).round().astype(int):
        baseline = int(np.clip(row + _TEXT_HEIGHT // 2, _TEXT_HEIGHT, max(height - 2, 0)))
        text = f"{rows[row]:.2f} m"
        place = (2 * _GAP + _BAR_WIDTH, baseline)
        cv2.putText(scale, text, place, _FONT, 0.36, (0, 0, 0), 1, cv2.LINE_AA)
    return scale


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
