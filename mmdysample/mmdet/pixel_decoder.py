"""MaskFormer's pixel decoders, whose top-down path is built of upsamplers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from mmdet.models.layers import PixelDecoder, TransformerEncoderPixelDecoder
from mmdet.registry import MODELS
from mmengine.model import ModuleList
from torch import Tensor, nn

from mmdysample.registry import build_upsampler


class StandIn:
    """``self`` in calls of an upstream's method: a module with some attributes replaced.

    The forwards of upstream's pixel decoders end in the top-down path. Told that there is no level
    to climb, they do all that comes before it, and the path is left to us. The module itself does
    not change, so that threads may share it. It is made once, in ``__init__``: torch.compile of
    PyTorch 2.1 does not follow a module into an object that was made in the compiled function.
    """

    def __init__(self, module: nn.Module, **replaced: Any) -> None:
        self.module = module
        self.replaced = replaced

    def __getattr__(self, name: str) -> Any:
        # How Python copies and pickles an object is not for the module to say.
        if name.startswith("__"):
            raise AttributeError(name)
        return self.replaced[name] if name in self.replaced else getattr(self.module, name)


def keep(x: Tensor) -> Tensor:
    """In place of a layer that is not due yet."""
    return x


class TopDownPath:
    """Mixin before a pixel decoder of mmdet: the upsamplers, and what is done at each level."""

    interpolation: ClassVar[str]  # upstream's own

    def __init__(self, *args, upsample_cfg: dict | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.upsample_cfg = dict(type=self.interpolation) if upsample_cfg is None else upsample_cfg
        channels = self.mask_feature.in_channels
        self.upsample_modules = ModuleList(
            build_upsampler(self.upsample_cfg, channels, 2, guide_channels=channels)
            for _ in self.lateral_convs
        )

    def init_weights(self) -> None:
        """Initialize weights; upstream's method asks only the modules that it knows."""
        super().init_weights()
        for upsample in self.upsample_modules:
            upsample.init_weights()

    def climb(self, y: Tensor, feats: Sequence[Tensor]) -> list[Tensor]:
        """``y`` (B, C, H, W) of the level below the laterals -> maps of their levels, coarse to
        fine."""
        outs = []
        for level in reversed(range(len(self.lateral_convs))):
            lateral = self.lateral_convs[level](feats[level])
            y = lateral + self.upsample_modules[level](y, guide=lateral)
            y = self.output_convs[level](y)
            outs.append(y)
        return outs


class _MaskFormerDecoder(TopDownPath):
    interpolation = "Nearest"
    upstream: ClassVar[type[PixelDecoder]]

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.without_path = StandIn(self, num_inputs=1, mask_feature=keep)

    def forward(
        self, feats: Sequence[Tensor], batch_img_metas: list[dict]
    ) -> tuple[Tensor, Tensor]:
        """Features of the backbone, fine to coarse -> mask feature (finest level), memory."""
        y, memory = self.upstream.forward(self.without_path, feats, batch_img_metas)
        return self.mask_feature([y, *self.climb(y, feats)][-1]), memory


class _IsPixelDecoder(type(PixelDecoder)):
    """Makes ``type(pixel_decoder) == PixelDecoder`` true of subclasses.

    mmdet's MaskFormerHead asks exactly this to learn whether the memory comes straight from the
    backbone; only then it builds the ``decoder_input_proj`` that gives it the transformer's
    channels. mmseg's head inherits the question. A subclass would lose the projection silently.
    """

    def __eq__(cls, other: object) -> bool:
        return other is PixelDecoder or super().__eq__(other)

    __hash__ = type(PixelDecoder).__hash__


@MODELS.register_module()
class UpsamplePixelDecoder(_MaskFormerDecoder, PixelDecoder, metaclass=_IsPixelDecoder):
    """mmdet's PixelDecoder with a configurable upsampler at every stage of the top-down path.

    For mmdet's MaskFormerHead, and with ``type='mmdet.UpsamplePixelDecoder'`` for mmseg's.

    Args:
        upsample_cfg: ``dict(type='DySample', ...)``: what every stage is built from. The guide of a
            stage is the lateral that its result is added to. None means mmdet's nearest
            interpolation.
        *args, **kwargs: as for mmdet's PixelDecoder.

    State-dict names: ``upsample_modules.N`` is the stage whose result is added to lateral N.
    """

    upstream = PixelDecoder


@MODELS.register_module()
class UpsampleTransformerEncoderPixelDecoder(_MaskFormerDecoder, TransformerEncoderPixelDecoder):
    """mmdet's TransformerEncoderPixelDecoder with a configurable upsampler at every stage.

    Args:
        upsample_cfg: ``dict(type='DySample', ...)``, as for :class:`UpsamplePixelDecoder`.
        *args, **kwargs: as for mmdet's TransformerEncoderPixelDecoder.

    State-dict names: ``upsample_modules.N`` is the stage whose result is added to lateral N.
    """

    upstream = TransformerEncoderPixelDecoder
