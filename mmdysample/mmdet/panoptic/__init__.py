"""Panoptic segmentation without panopticapi: loading, panoptic quality, drawing.

``inferencer.PanopticInferencer`` stands apart because it brings in all of ``mmdet.apis``.
"""

from mmdysample.mmdet.panoptic.loading import LoadPanopticSegments
from mmdysample.mmdet.panoptic.metric import PanopticQualityMetric
from mmdysample.mmdet.panoptic.visualizer import PanopticLocalVisualizer

__all__ = [
    "LoadPanopticSegments",
    "PanopticLocalVisualizer",
    "PanopticQualityMetric",
]
