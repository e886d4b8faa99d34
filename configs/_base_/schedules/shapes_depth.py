# As for segmentation; predictions are drawn as depth.
_base_ = "shapes_segmentation.py"
visualizer = dict(type="DepthLocalVisualizer")
