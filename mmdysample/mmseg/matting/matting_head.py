"""The decoder of the matting network, whose four stages begin with an upsampler."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmdysample.errors import InvalidValue
from mmdysample.hosts import build_stages, check_channels
from mmdysample.mmseg.matting.aspp import SeparableASPP
from mmdysample.mmseg.matting.backbone import EncoderMaps
from mmdysample.mmseg.matting.fields import stack_field
from mmdysample.mmseg.matting.loading import UNKNOWN
from mmdysample.mmseg.matting.residual_block import NEGATIVE_SLOPE, ResidualBlock
from mmdysample.ops.checks import positive_int


@MODELS.register_module()
class MattingHead(BaseModule):
    """The decoder of A2U matting (Dai et al., CVPR 2021) with a configurable upsampler.

    ASPP of the coarsest map, then four stages. Each upsamples what is below with a map of the
    encoder as its guide, adds a convolved map of the encoder (the shortcut), and passes the sum
    through two residual blocks. With c = ``base_channels``:

    ===== ================= ========================= ================== ===
    stage input             guide                     shortcut           out
    ===== ================= ========================= ================== ===
    0     4c, 1/16          ``inner_layer3``, 4c, 1/8 ``layer2``, 2c     2c
    1     2c, 1/8           ``inner_layer2``, 2c, 1/4 ``layer1``, c      c
    2     c, 1/4            ``pooled_stem``, c, 1/2   ``pooled_stem``, c c
    3     c, 1/2            ``stem``, c, 1            ``image``          c/2
    ===== ================= ========================= ================== ===

    Two 3x3 convolutions predict alpha from the last, without bounds.

    Args:
        base_channels: c, as of the `MattingResNet` before.
        image_channels: channels of ``image``.
        upsample_cfg: ``dict(type='DySample', ...)``: what the stages are built from; by default
            ``dict(type='Bilinear')``.
        dilations: of the ASPP.
        dropout_ratio: of the ASPP.
        norm_cfg: config of the normalization; by default ``dict(type="BN")``.
        loss_decode: config of the loss; by default ``dict(type="MattingLoss")``.
        init_cfg: as for any module of mmengine; by default weights of convolutions are drawn from
            Glorot's normal distribution with the gain of the LeakyReLU, and those of the last one
            are made positive.

    State-dict names of the upsamplers: ``upsample_modules.N.*``, N the stage.
    """

    def __init__(
        self,
        base_channels: int = 64,
        image_channels: int = 4,
        upsample_cfg: dict | None = None,
        dilations: Sequence[int] = (1, 6, 12, 18),
        dropout_ratio: float = 0.5,
        norm_cfg: dict | None = None,
        loss_decode: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        c = positive_int("base_channels", base_channels)
        if c % 2:
            raise InvalidValue(f"base_channels of MattingHead must be even, got {c}")
        norm_cfg = norm_cfg or dict(type="BN")
        settings = dict(
            norm_cfg=norm_cfg, act_cfg=dict(type="LeakyReLU", negative_slope=NEGATIVE_SLOPE)
        )
        in_channels = [4 * c, 2 * c, c, c]
        short_channels = [2 * c, c, c, positive_int("image_channels", image_channels)]
        out_channels = [2 * c, c, c, c // 2]
        # image, stem, its pooled map, and the inner and last maps of the layers
        self.map_channels = [image_channels, c, c, c, 2 * c, 2 * c, 4 * c, 4 * c]
        self.aspp = SeparableASPP(4 * c, dilations, dropout_ratio, **settings)
        self.shorts = nn.ModuleList(
            ConvModule(skip, channels, 3, padding=1, **settings)
            for skip, channels in zip(short_channels, in_channels, strict=True)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                ResidualBlock(channels, out, 1, norm_cfg), ResidualBlock(out, out, 1, norm_cfg)
            )
            for channels, out in zip(in_channels, out_channels, strict=True)
        )
        self.prediction = nn.Sequential(
            ConvModule(out_channels[-1], 1, 3, padding=1, **settings),
            nn.Conv2d(1, 1, 3, padding=1, bias=False),
        )
        self.upsample_modules = build_stages(upsample_cfg or dict(type="Bilinear"), in_channels)
        self.loss_decode = MODELS.build(loss_decode or dict(type="MattingLoss"))

    def init_weights(self) -> None:
        """Initialize the layers, then the upsamplers in their own manner, then by ``init_cfg``."""
        gain = math.sqrt(2 / (1 + NEGATIVE_SLOPE**2))
        for part in (self.aspp, self.shorts, self.stages, self.prediction):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.xavier_normal_(module.weight, gain)
        # One channel without a bias: with negative weights alpha would start below 0, where the
        # LeakyReLU before it leaves a hundredth of the gradient.
        self.prediction[1].weight.data.abs_()
        super().init_weights()

    def forward(self, maps: EncoderMaps) -> Tensor:
        """Maps of the encoder -> alpha (B, 1, H, W), not clamped.

        Raises:
            ValueError: the maps have other channels than ``base_channels`` says.
        """
        check_channels("MattingHead", maps, self.map_channels)
        guides = [maps.inner_layer3, maps.inner_layer2, maps.pooled_stem, maps.stem]
        skips = [maps.layer2, maps.layer1, maps.pooled_stem, maps.image]
        x = self.aspp(maps.layer3)
        for n, upsample in enumerate(self.upsample_modules):
            x = self.stages[n](upsample(x, guide=guides[n]) + self.shorts[n](skips[n]))
        return self.prediction(x)

    def loss(self, maps: EncoderMaps, samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            maps: of the encoder.
            samples: each with ``gt_alpha`` and ``trimap`` (1, H, W), and ``gt_fg`` and ``gt_bg``
                (3, H, W) where compositions are compared; all of values 0 to 255.
        """
        targets = dict(
            alpha=stack_field(samples, "gt_alpha") / 255,
            unknown=stack_field(samples, "trimap") == UNKNOWN,
        )
        if self.loss_decode.composition_weight:
            targets["foreground"] = stack_field(samples, "gt_fg") / 255
            targets["background"] = stack_field(samples, "gt_bg") / 255
        return self.loss_decode(self.forward(maps), **targets)

    def predict(self, maps: EncoderMaps, samples: Sequence[SegDataSample]) -> list[Tensor]:
        """Alpha mattes (1, H, W), uint8, of the sizes of the samples' trimaps.

        Alpha is clamped to [0, 1], known pixels are what the trimap says, and fractions of 1/255
        are cut off.

        Raises:
            InvalidValue: a prediction has values that are not a number, which 8 bits cannot say.
        """
        pred = self.forward(maps).float().clamp(0, 1)
        mattes = []
        for alpha, sample in zip(pred, samples, strict=True):
            trimap = sample.trimap.data
            height, width = trimap.shape[1:]
            alpha = alpha[:, :height, :width]
            if alpha.isnan().any():
                raise InvalidValue(
                    f"the alpha predicted of {sample.get('img_path', 'an image')} is not a number: "
                    "the weights of the model are of a training that diverged, or 16 bits are too "
                    "few for it"
                )
            matte = (255 * alpha).to(torch.uint8)
            mattes.append(torch.where(trimap == UNKNOWN, matte, trimap))
        return mattes
