"""The matting model: from a batch of images and trimaps to losses or alpha mattes."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.structures import PixelData
from mmseg.models.segmentors import BaseSegmentor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmdysample.mmseg.matting.backbone import EncoderMaps


@MODELS.register_module()
class A2UMatting(BaseSegmentor):
    """The matting network of A2U (Dai et al., CVPR 2021), which SAPA and FADE compare with.

    Args:
        backbone: config of a `MattingResNet`.
        decode_head: config of a `MattingHead`.
        data_preprocessor: config of a `MattingDataPreprocessor`.
        init_cfg: as for any module of mmengine.
    """

    def __init__(
        self,
        backbone: dict,
        decode_head: dict,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        self.backbone = MODELS.build(backbone)
        self.decode_head = MODELS.build(decode_head)

    def extract_feat(self, inputs: Tensor) -> EncoderMaps:
        """Image and trimap (B, 4, H, W) -> maps of the encoder."""
        return self.backbone(inputs)

    def encode_decode(
        self, inputs: Tensor, batch_data_samples: Sequence[SegDataSample] | None = None
    ) -> Tensor:
        """Image and trimap (B, 4, H, W) -> alpha (B, 1, H, W), not clamped."""
        return self.decode_head(self.extract_feat(inputs))

    def _forward(
        self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None
    ) -> Tensor:
        return self.encode_decode(inputs, data_samples)

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """Losses of a batch; `MattingHead.loss` says of what."""
        return self.decode_head.loss(self.extract_feat(inputs), data_samples)

    def predict(
        self, inputs: Tensor, data_samples: Sequence[SegDataSample]
    ) -> Sequence[SegDataSample]:
        """The samples with ``pred_alpha``, (1, H, W) of uint8, each of its trimap's size."""
        mattes = self.decode_head.predict(self.extract_feat(inputs), data_samples)
        for sample, matte in zip(data_samples, mattes, strict=True):
            sample.pred_alpha = PixelData(data=matte)
        return data_samples
