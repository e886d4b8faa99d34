"""SegNet with any upsampler, for mmseg's runtime."""

from mmdysample.mmseg.segnet.segnet_head import SegNetHead
from mmdysample.mmseg.segnet.vgg import VGG

__all__ = ["VGG", "SegNetHead"]
