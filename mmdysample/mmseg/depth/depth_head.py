"""What the heads of depth estimators share: ground truth, loss, and prediction in meters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmdysample.errors import InvalidType, InvalidValue, UserError
from mmdysample.hosts import check_channels
from mmdysample.ops.checks import finite_number
from mmdysample.upsamplers.layers import to_float32_or_more

# Arguments of BaseDecodeHead that have no meaning for depth, or only one value.
OF_SEGMENTATION = (
    *("num_classes", "out_channels", "threshold", "dropout_ratio", "ignore_index", "sampler"),
    "input_transform",
)


class DepthHead(BaseDecodeHead):
    """mmseg's head of a decoder for maps of depth instead of classes.

    A subclass implements ``forward(features) -> (B, 1, h, w)``, the depth in meters at any size;
    here it is compared with the ground truth (`loss`) and brought to the size of the image
    (`predict`), in float32 also where autocast is on.

    Args:
        in_channels: channels of the features, one number per level.
        channels: channels of the finest map of the decoder.
        min_depth, max_depth: predictions are clamped to this range when tested, in meters.
        align_corners: as in ``F.interpolate``, where a prediction is resized.
        loss_decode: one loss of depth maps, or several; ScaleInvariantLoss by default.
        in_index: which of the backbone's (or the neck's) maps are taken; all by default.
        **kwargs: as for mmseg's BaseDecodeHead, but for what is only of segmentation
            (`OF_SEGMENTATION`).

    Attributes:
        num_classes, out_channels: 1, which mmseg's DepthEstimator asks for.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        *,
        min_depth: float = 1e-3,
        max_depth: float = 10.0,
        align_corners: bool = True,
        loss_decode: dict | Sequence[dict] | None = None,
        in_index: Sequence[int] | None = None,
        **kwargs,
    ) -> None:
        refuse_arguments(type(self).__name__, kwargs, OF_SEGMENTATION)
        check_range(min_depth, max_depth)
        super().__init__(
            list(in_channels),
            channels,
            num_classes=1,
            threshold=0.0,  # of a segmentation, which mmseg asks for where there is one channel
            dropout_ratio=0.0,
            in_index=list(range(len(in_channels))) if in_index is None else list(in_index),
            input_transform="multiple_select",
            loss_decode=loss_decode or dict(type="ScaleInvariantLoss"),
            align_corners=align_corners,
            init_cfg=kwargs.pop("init_cfg", None),
            **kwargs,
        )
        del self.conv_seg  # the layer that classifies pixels
        self.takes_all = in_index is None
        self.min_depth = float(min_depth)
        self.max_depth = float(max_depth)

    def extra_repr(self) -> str:
        return (
            f"min_depth={self.min_depth}, max_depth={self.max_depth}, "
            f"align_corners={self.align_corners}"
        )

    def _transform_inputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The maps that are taken; InvalidValue unless they have ``in_channels`` channels."""
        taken = list(inputs) if self.takes_all else super()._transform_inputs(inputs)
        check_channels(type(self).__name__, taken, self.in_channels)
        return taken

    def loss_by_feat(self, depth: Tensor, batch_data_samples: Sequence) -> dict[str, Tensor]:
        """The losses of a prediction, (B, 1, h, w) in meters, at the size of the ground truth.

        Raises:
            UserError: a sample has no ``gt_depth_map``.
        """
        target = self._stack_batch_gt(batch_data_samples)
        depth = self._resize(depth.float(), target.shape[2:])
        several = isinstance(self.loss_decode, nn.ModuleList)
        losses = {}
        for loss in self.loss_decode if several else [self.loss_decode]:
            value = loss(depth, target)
            losses[loss.loss_name] = losses.get(loss.loss_name, 0) + value
        return losses

    def predict_by_feat(self, depth: Tensor, batch_img_metas: Sequence[dict]) -> Tensor:
        """(B, 1, h, w) -> (B, 1, H, W) of the image as the network saw it, in meters.

        The depth is clamped to [min_depth, max_depth] first and resized then, so that one wrong
        pixel is not spread over its neighbors.
        """
        meta = batch_img_metas[0]
        size = meta["img_shape"]
        if not isinstance(size, torch.Size):  # which is a window's, of slide inference
            size = meta.get("pad_shape", size)
        depth = depth.float().clamp(self.min_depth, self.max_depth)
        return self._resize(depth, size[:2])

    def _share_of_max_depth(self, logits: Tensor) -> Tensor:
        """``max_depth`` times the sigmoid; in float32 also where autocast is on."""
        return to_float32_or_more(logits).sigmoid() * self.max_depth

    def _resize(self, depth: Tensor, size: Sequence[int]) -> Tensor:
        return F.interpolate(
            depth, size=tuple(size), mode="bilinear", align_corners=self.align_corners
        )

    def _stack_batch_gt(self, batch_data_samples: Sequence) -> Tensor:
        """(B, 1, H, W) in meters; 0 where the depth is not known."""
        for sample in batch_data_samples:
            if "gt_depth_map" not in sample:
                raise UserError(
                    f"{sample.get('img_path', 'a sample')} has no gt_depth_map, which a depth "
                    "estimator is trained with: add LoadDepthAnnotation to the pipeline"
                )
        return torch.stack([sample.gt_depth_map.data for sample in batch_data_samples])


def refuse_arguments(head: str, given: Iterable[str], refused: Sequence[str]) -> None:
    """InvalidType if one of the arguments ``given`` to a head is to be ``refused``."""
    for name in given:
        if name in refused:
            raise InvalidType(
                f"{head} takes no {name}: a head for depth sets it itself or has no use for it"
            )


def check_range(min_depth: float, max_depth: float) -> None:
    """InvalidType or InvalidValue unless 0 < min_depth < max_depth, and that is finite."""
    for name, value in (("min_depth", min_depth), ("max_depth", max_depth)):
        finite_number(name, value, "a finite number of meters")
    if not 0 < min_depth < max_depth:
        raise InvalidValue(
            "min_depth and max_depth must satisfy 0 < min_depth < max_depth, "
            f"got min_depth={min_depth!r} and max_depth={max_depth!r}"
        )
