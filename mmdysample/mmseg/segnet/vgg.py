"""VGG with batch normalization, as SegNet's encoder: the maps before the pools, too."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmdysample.errors import InvalidValue
from mmdysample.ops.checks import positive_int


@MODELS.register_module()
class VGG(BaseModule):
    """The convolutions of VGG with batch normalization, whose every stage ends in a 2x2 max pool.

    Simonyan, Zisserman: "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR
    2015; with batch normalization as torchvision has it, and without the fully connected layers.

    Args:
        num_convs: 3x3 convolutions of each stage, fine to coarse; the default is VGG-16's.
        widths: their channels.
        in_channels: of the image.
        init_cfg: ``dict(type='Pretrained', checkpoint='torchvision://vgg16_bn')``, say.

    State-dict names: ``features.N.*``, torchvision's own. With the defaults there are 14,714,688
    parameters in the convolutions and 8,448 in the normalizations.
    """

    def __init__(
        self,
        num_convs: Sequence[int] = (2, 2, 3, 3, 3),
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        in_channels: int = 3,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_stages("VGG", num_convs, widths)
        layers: list[nn.Module] = []
        channels = positive_int("in_channels", in_channels)
        for convs, width in zip(num_convs, widths, strict=True):
            for _ in range(convs):
                layers.append(nn.Conv2d(channels, width, 3, padding=1))
                layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU(inplace=True))
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.num_stages = len(widths)
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of an image.

        Args:
            x: (B, in_channels, H, W). A pool drops the last row or column of an odd map.

        Returns:
            The map of each stage before it is pooled, fine to coarse, (B, widths[n], H/2^n, W/2^n),
            and last the pooled map of the coarsest stage.

        Raises:
            InvalidValue: the image is smaller than the pools divide it by.
        """
        least = 2**self.num_stages
        if min(x.shape[2:]) < least:
            raise InvalidValue(
                f"VGG with {self.num_stages} stages takes images of at least {least}x{least} "
                f"pixels, got {x.shape[2]}x{x.shape[3]}"
            )
        outs = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                outs.append(x)
            x = layer(x)
        return (*outs, x)


def check_stages(host: str, num_convs: Sequence[int], widths: Sequence[int]) -> None:
    """InvalidValue or InvalidType unless both are one positive integer for each stage."""
    if len(num_convs) != len(widths) or not widths:
        raise InvalidValue(
            f"{host} takes num_convs and widths of as many stages, at least one, got "
            f"num_convs={tuple(num_convs)} and widths={tuple(widths)}"
        )
    for name, values in (("num_convs", num_convs), ("widths", widths)):
        for stage, value in enumerate(values):
            positive_int(f"{name}[{stage}]", value)
