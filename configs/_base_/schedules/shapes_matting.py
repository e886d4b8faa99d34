# As for segmentation; predictions are drawn as alpha mattes.
_base_ = "shapes_segmentation.py"
visualizer = dict(type="MattingLocalVisualizer")
