"""Image matting: the network of A2U matting with any upsampler, for mmseg's runtime."""

from mmdysample.mmseg.matting.backbone import MattingResNet
from mmdysample.mmseg.matting.estimator import A2UMatting
from mmdysample.mmseg.matting.losses import MattingLoss
from mmdysample.mmseg.matting.matting_head import MattingHead
from mmdysample.mmseg.matting.preprocessor import MattingDataPreprocessor

__all__ = ["A2UMatting", "MattingDataPreprocessor", "MattingHead", "MattingLoss", "MattingResNet"]
