"""The maps that a data sample of image matting carries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmseg.structures import SegDataSample
from torch import Tensor

from mmdysample.errors import InvalidValue


def field_of(sample: SegDataSample, name: str) -> Tensor:
    """A map of a sample, (C, H, W); InvalidValue naming the image that has none."""
    if name not in sample:
        of_image = f" of {sample.img_path}" if "img_path" in sample else ""
        raise InvalidValue(
            f"the data sample{of_image} has no {name}: the pipeline of the data set has to load "
            "and pack it"
        )
    return sample.get(name).data


def stack_field(samples: Sequence[SegDataSample], name: str) -> Tensor:
    """A map of each sample of a batch, (B, C, H, W)."""
    return torch.stack([field_of(sample, name) for sample in samples])
