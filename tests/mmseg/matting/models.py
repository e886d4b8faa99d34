"""Matting models and batches for tests."""

from __future__ import annotations

import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmdysample.mmseg.matting import A2UMatting, MattingDataPreprocessor
from tests.utils import randomize

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def make_model(upsample_cfg=None, depth=18, base_channels=8, **head) -> A2UMatting:
    return A2UMatting(
        backbone=dict(type="MattingResNet", depth=depth, base_channels=base_channels),
        decode_head=dict(
            type="MattingHead",
            base_channels=base_channels,
            upsample_cfg=upsample_cfg,
            **dict(dropout_ratio=0.0) | head,
        ),
        data_preprocessor=MattingDataPreprocessor(MEAN, STD),
    )


def make_random(**settings) -> A2UMatting:
    """With random weights and statistics, so that no term of the result is missing."""
    model = randomize(make_model(**settings), 0.2)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return model


def make_batch(*sizes: tuple[int, int], seed: int = 0) -> dict:
    """One training sample of each size, as the data set's pipeline packs them."""
    random = np.random.default_rng(seed)

    def pixels(channels: int, height: int, width: int) -> torch.Tensor:
        return torch.from_numpy(random.integers(0, 256, (channels, height, width), np.uint8))

    inputs, samples = [], []
    for height, width in sizes:
        sample = SegDataSample(metainfo=dict(img_path="image.png", img_shape=(height, width)))
        sample.gt_alpha = PixelData(data=pixels(1, height, width))
        trimap = pixels(1, height, width)
        trimap[trimap < 60] = 0
        trimap[trimap > 200] = 255
        trimap[(trimap != 0) & (trimap != 255)] = 128
        sample.trimap = PixelData(data=trimap)
        sample.gt_fg = PixelData(data=pixels(3, height, width))
        sample.gt_bg = PixelData(data=pixels(3, height, width))
        inputs.append(pixels(3, height, width))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)
