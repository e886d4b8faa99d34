"""ResNet whose first output is the map of its stem."""

from __future__ import annotations

from mmseg.models.backbones import ResNet
from mmseg.registry import MODELS
from torch import Tensor

from mmdysample.errors import InvalidType


@MODELS.register_module()
class StemResNet(ResNet):
    """mmseg's ResNet that also returns what enters the max-pooling, at half of the image's size.

    Decoders of depth climb from there, as BTS does (Lee et al., 2019, section 3.2). Parameters have
    the names of mmseg's and torchvision's ResNet.

    Args:
        depth: 18, 34, 50, 101 or 152.
        freeze_stem_and_norms: whether the stem, and weight and bias of every batch normalization
            but those of the shortcuts (``downsample``) keep their pretrained values, as in BTS's
            training. Running means and variances still follow the data.
        **kwargs: as for mmseg's ResNet.
    """

    def __init__(self, depth: int, *, freeze_stem_and_norms: bool = False, **kwargs) -> None:
        super().__init__(depth, **kwargs)
        if not isinstance(freeze_stem_and_norms, bool):
            raise InvalidType(
                f"freeze_stem_and_norms must be True or False, got {freeze_stem_and_norms!r}"
            )
        if freeze_stem_and_norms:
            for name, parameter in self.named_parameters():
                if name.startswith(("conv1.", "bn1.", "stem.")) or ".bn" in name:
                    parameter.requires_grad = False

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images -> the stem's map (B, stem_channels, H/2, W/2), and those of ``out_indices``."""
        x = self.stem(x) if self.deep_stem else self.relu(self.norm1(self.conv1(x)))
        outs = [x]
        x = self.maxpool(x)
        for number, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            if number in self.out_indices:
                outs.append(x)
        return tuple(outs)
