"""Image matting: the network of A2U matting with any upsampler, for mmseg's runtime."""

from mmdysample.mmseg.matting.dataset import ComposedMattingDataset, MattingDataset
from mmdysample.mmseg.matting.loading import (
    LoadAlphaAnnotations,
    LoadBackground,
    LoadForeground,
    LoadTrimap,
)
from mmdysample.mmseg.matting.metrics import MattingMetric
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

__all__ = [
    "ComposedMattingDataset",
    "CompositeForeground",
    "CropAroundUnknown",
    "GenerateTrimap",
    "JitterForeground",
    "LoadAlphaAnnotations",
    "LoadBackground",
    "LoadForeground",
    "LoadTrimap",
    "MattingDataset",
    "MattingMetric",
    "MergeForegrounds",
    "PackMattingInputs",
    "RandomForegroundAffine",
    "ResizeForeground",
]
