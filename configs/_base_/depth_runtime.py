# mmseg's runtime; predictions are drawn as depth.
_base_ = "mmseg::_base_/default_runtime.py"
visualizer = dict(type="DepthLocalVisualizer")
