"""SegNet's decoder, whose stages begin with an upsampler."""

from __future__ import annotations

from collections.abc import Sequence

from mmcv.cnn import ConvModule
from mmengine.model import ModuleList, Sequential
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor

from mmdysample.errors import InvalidType
from mmdysample.hosts import build_stages, check_channels
from mmdysample.mmseg.segnet.max_unpool import MaxUnpool
from mmdysample.mmseg.segnet.vgg import check_stages


@MODELS.register_module()
class SegNetHead(BaseDecodeHead):
    """SegNet's decoder with a configurable upsampler at every stage.

    Badrinarayanan, Kendall, Cipolla: "SegNet: A Deep Convolutional Encoder-Decoder Architecture for
    Image Segmentation", TPAMI 2017. A stage upsamples to the size of the encoder's map before its
    pool, which is the guide and nothing else: no map of the encoder is added. The encoder's
    convolutions follow in reverse, each with normalization and ReLU; the last of them goes to the
    next stage's width. After the finest stage a 1x1 convolution classifies.

    Args:
        num_convs: 3x3 convolutions of each stage, fine to coarse, as the encoder's.
        widths: channels of the encoder's stages, fine to coarse.
        channels: channels of the finest stage's last convolution, which are classified. None means
            ``widths[0]``.
        upsample_cfg: ``dict(type='DySample', ...)``. None means max unpooling, SegNet's own.
        **kwargs: as for mmseg's BaseDecodeHead, without ``in_channels``, ``in_index`` and
            ``input_transform``, which follow from ``widths``.

    State-dict names: ``upsample_modules.N`` and ``stages.N.M``, N = 0 for the coarsest.
    """

    def __init__(
        self,
        *,
        num_convs: Sequence[int] = (2, 2, 3, 3, 3),
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        channels: int | None = None,
        upsample_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        check_stages("SegNetHead", num_convs, widths)
        given = sorted({"in_channels", "in_index", "input_transform"} & kwargs.keys())
        if given:
            raise InvalidType(
                f"SegNetHead has no argument {given[0]!r} (given {kwargs[given[0]]!r}): it takes "
                "all maps of its encoder, whose channels are widths"
            )
        channels = widths[0] if channels is None else channels
        super().__init__(
            in_channels=[*widths, widths[-1]],
            in_index=list(range(len(widths) + 1)),
            input_transform="multiple_select",
            channels=channels,
            **kwargs,
        )
        coarse_to_fine = list(reversed(widths))
        self.stages = ModuleList(
            self._convs(count, width, next_width)
            for count, width, next_width in zip(
                reversed(num_convs), coarse_to_fine, [*coarse_to_fine[1:], channels], strict=True
            )
        )
        if upsample_cfg is None:
            self.upsample_modules = ModuleList(MaxUnpool() for _ in widths)
        else:
            self.upsample_modules = build_stages(upsample_cfg, coarse_to_fine)

    def _convs(self, count: int, width: int, out_channels: int) -> Sequential:
        """``count`` convolutions of ``width`` channels, the last of them to ``out_channels``."""
        return Sequential(
            *(
                ConvModule(
                    width,
                    out_channels if n == count - 1 else width,
                    3,
                    padding=1,
                    conv_cfg=self.conv_cfg,
                    norm_cfg=self.norm_cfg,
                    act_cfg=self.act_cfg,
                )
                for n in range(count)
            )
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """The encoder's maps, see `VGG`, -> (B, num_classes, H, W), the size of the finest."""
        check_channels("SegNetHead", inputs, self.in_channels)
        *guides, x = inputs
        for upsample, convs, guide in zip(
            self.upsample_modules, self.stages, reversed(guides), strict=True
        ):
            x = convs(upsample(x, guide=guide))
        return self.cls_seg(x)
