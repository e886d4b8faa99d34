"""Drawings of alpha mattes."""

from __future__ import annotations

from collections.abc import Sequence

import mmcv
import numpy as np
import torch
from mmengine.dist import master_only
from mmseg.registry import VISUALIZERS
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer

from mmdysample.errors import InvalidValue
from mmdysample.mmseg.matting.compositing import composite
from mmdysample.mmseg.matting.loading import check_size
from mmdysample.mmseg.panels import enlarge, lay_out

GREEN = (0, 177, 64)
"""Of a screen to film in front of, RGB."""
CAPTIONS = dict(trimap="trimap", gt_alpha="true alpha", pred_alpha="predicted alpha")


@VISUALIZERS.register_module()
class MattingLocalVisualizer(SegLocalVisualizer):
    """mmseg's SegLocalVisualizer, which draws alpha mattes.

    From left to right: the image, its trimap, the true alpha if there is one, the predicted alpha,
    and the image in front of a plain color by it. The foreground's own colors are not estimated, so
    that half transparent pixels keep some of the old background. Small images are enlarged. Samples
    without any of these are drawn as mmseg does.

    Args:
        plain_color: RGB, 0 to 255.
        **kwargs: as for SegLocalVisualizer.

    Raises:
        InvalidValue: ``plain_color`` is no color.
    """

    def __init__(
        self, name: str = "visualizer", *args, plain_color: Sequence[int] = GREEN, **kwargs
    ) -> None:
        super().__init__(name, *args, **kwargs)
        if len(plain_color) != 3 or not all(0 <= value <= 255 for value in plain_color):
            raise InvalidValue(
                f"plain_color must be three numbers from 0 to 255, got {plain_color!r}"
            )
        self.plain_color = plain_color

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
        """Draw the alphas of a sample beside its image (H, W, 3), uint8, RGB.

        Raises:
            InvalidValue: the image is not of the alphas' size.
        """
        drawn = self.draw_datasample(image, data_sample, draw_gt, draw_pred)
        if drawn is None:
            options = (draw_gt, draw_pred, show, wait_time, out_file, step, with_labels)
            super().add_datasample(name, image, data_sample, *options)
            return
        self.set_image(drawn)
        if show:
            self.show(drawn, win_name=name, wait_time=wait_time)
        if out_file is not None:
            mmcv.imwrite(mmcv.rgb2bgr(drawn), out_file)
        else:
            self.add_image(name, drawn, step)

    def draw_datasample(
        self,
        image: np.ndarray,
        data_sample: SegDataSample | None,
        draw_gt: bool = True,
        draw_pred: bool = True,
    ) -> np.ndarray | None:
        """The drawing, uint8, RGB; None for a sample without trimap and alphas.

        Arguments and errors as for `add_datasample`.
        """
        wanted = (("trimap", True), ("gt_alpha", draw_gt), ("pred_alpha", draw_pred))
        keys = [key for key, draw in wanted if draw and data_sample is not None]
        maps = {key: _map(data_sample, key) for key in keys if key in data_sample}
        return draw_mattes(image, maps, self.plain_color) if maps else None


def draw_mattes(
    image: np.ndarray, maps: dict[str, np.ndarray], plain_color: Sequence[int] = GREEN
) -> np.ndarray:
    """An image, its maps in gray, and what is in front by ``maps['pred_alpha']``, side by side.

    Args:
        image: (H, W, 3), uint8, RGB.
        maps: trimap and alphas, each (H, W), uint8.
        plain_color: RGB, 0 to 255.

    Returns:
        The drawing as `lay_out` makes it, uint8, RGB.
    """
    panels = [("image", image)]
    for key, values in maps.items():
        check_size(values, f"{key} of the sample", image.shape, "the image to draw on")
        panels.append((CAPTIONS[key], np.repeat(values[..., None], 3, axis=2)))
    if "pred_alpha" in maps:
        plain = np.full_like(image, plain_color)
        panels.append(("on a plain color", composite(image, plain, maps["pred_alpha"])))
    return lay_out([(caption, enlarge(drawn)) for caption, drawn in panels])


def _map(sample: SegDataSample, key: str) -> np.ndarray:
    """(H, W) of a sample's map (1, H, W)."""
    return torch.as_tensor(sample.get(key).data).detach().cpu().squeeze(0).numpy()
