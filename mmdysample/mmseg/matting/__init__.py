"""Image matting: the network of A2U matting with any upsampler, for mmseg's runtime."""

from mmdysample.mmseg.matting.backbone import MattingResNet
from mmdysample.mmseg.matting.dataset import ComposedMattingDataset, MattingDataset
from mmdysample.mmseg.matting.estimator import A2UMatting
from mmdysample.mmseg.matting.loading import (
    LoadAlphaAnnotations,
    LoadBackground,
    LoadForeground,
    LoadTrimap,
)
from mmdysample.mmseg.matting.losses import MattingLoss
from mmdysample.mmseg.matting.matting_head import MattingHead
from mmdysample.mmseg.matting.metrics import MattingMetric
from mmdysample.mmseg.matting.preprocessor import MattingDataPreprocessor
from mmdysample.mmseg.matting.transforms import (
    CompositeForeground,
    CropAroundUnknown,
    GenerateTrimap,
    JitterForeground,
    MergeForegrounds,
    PackMattingInputs,
    RandomForegroundAffine,
    ResizeForeground,
)
from mmdysample.mmseg.matting.visualizer import MattingLocalVisualizer

__all__ = [
    "A2UMatting",
    "ComposedMattingDataset",
    "CompositeForeground",
    "CropAroundUnknown",
    "GenerateTrimap",
    "JitterForeground",
    "LoadAlphaAnnotations",
    "LoadBackground",
    "LoadForeground",
    "LoadTrimap",
    "MattingDataPreprocessor",
    "MattingDataset",
    "MattingHead",
    "MattingLocalVisualizer",
    "MattingLoss",
    "MattingMetric",
    "MattingResNet",
    "MergeForegrounds",
    "PackMattingInputs",
    "RandomForegroundAffine",
    "ResizeForeground",
]
