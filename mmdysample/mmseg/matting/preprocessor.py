"""Batches of image matting: image and trimap in one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from mmseg.registry import MODELS
from torch import Tensor

from mmdysample.errors import InvalidValue
from mmdysample.mmseg.matting.fields import field_of
from mmdysample.ops.checks import positive_int


@MODELS.register_module()
class MattingDataPreprocessor(BaseDataPreprocessor):
    """Images and trimaps of a batch -> (B, 4, H, W): three normalized colors, and trimap / 255.

    When testing, height and width are padded to multiples of ``size_divisor`` by reflection at
    their ends.

    Args:
        mean: of the three colors, in the order that the network takes, of values 0 to 255.
        std: likewise.
        bgr_to_rgb: whether images are loaded as BGR and the network takes RGB.
        size_divisor: of height and width when testing.
        non_blocking: of the copies to the device.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        bgr_to_rgb: bool = True,
        size_divisor: int = 16,
        non_blocking: bool = False,
    ) -> None:
        super().__init__(non_blocking)
        for name, value in (("mean", mean), ("std", std)):
            if len(value) != 3:
                raise InvalidValue(f"{name} must be three numbers, one for a color, got {value!r}")
        self.bgr_to_rgb = bgr_to_rgb
        self.size_divisor = positive_int("size_divisor", size_divisor)
        self.register_buffer("mean", _per_color(mean), persistent=False)
        self.register_buffer("std", _per_color(std), persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict[str, Any]:
        """A batch on the device of the model.

        Args:
            data: ``inputs``, images (3, H, W) of values 0 to 255; ``data_samples`` with a
                ``trimap`` (1, H, W) of 0, 128 and 255 each.
            training: whether sizes are left as they are.

        Raises:
            ValueError: a sample has no trimap, a trimap is not of its image's size, or the images
                are of several sizes.
        """
        data = self.cast_data(data)
        samples = data.get("data_samples")
        if samples is None:
            raise InvalidValue("MattingDataPreprocessor needs data_samples, which hold the trimaps")
        inputs = [
            self._with_trimap(image, sample)
            for image, sample in zip(data["inputs"], samples, strict=True)
        ]
        sizes = sorted({(x.shape[1], x.shape[2]) for x in inputs})
        if len(sizes) > 1:
            listed = ", ".join(f"{height}x{width}" for height, width in sizes)
            raise InvalidValue(
                f"the images of a batch are of several sizes ({listed}): crop them to one size in "
                "the pipeline, or set batch_size=1 in the dataloader"
            )
        inputs = torch.stack(inputs)
        if not training:
            inputs = pad_by_reflection(inputs, self.size_divisor)
        return dict(inputs=inputs, data_samples=samples)

    def _with_trimap(self, image: Tensor, sample: Any) -> Tensor:
        trimap = field_of(sample, "trimap")
        if trimap.shape[1:] != image.shape[1:]:
            raise InvalidValue(
                f"the trimap of {sample.get('img_path', 'an image')} is "
                f"{trimap.shape[1]}x{trimap.shape[2]} (height x width), but the image is "
                f"{image.shape[1]}x{image.shape[2]}"
            )
        colors = image.flip(0) if self.bgr_to_rgb else image
        return torch.cat([(colors.float() - self.mean) / self.std, trimap.float() / 255])


def _per_color(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(3, 1, 1)


def pad_by_reflection(x: Tensor, divisor: int) -> Tensor:
    """(B, C, H, W) whose H and W are rounded up to multiples of ``divisor``, padded at the end.

    The rows before the last one follow it in reverse order, then those after the first one again,
    as often as it takes; a single row is repeated. Columns likewise.
    """
    rows, columns = (_reflected(length, divisor, x.device) for length in x.shape[2:])
    return x[:, :, rows][:, :, :, columns]


def _reflected(length: int, divisor: int, device: torch.device) -> Tensor:
    """Indices of an axis after padding."""
    period = max(2 * (length - 1), 1)
    indices = torch.arange(-(-length // divisor) * divisor, device=device) % period
    return torch.where(indices < length, indices, period - indices)
