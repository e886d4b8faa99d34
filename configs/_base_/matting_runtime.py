# mmseg's runtime; predictions are drawn as alpha mattes.
_base_ = "mmseg::_base_/default_runtime.py"
visualizer = dict(type="MattingLocalVisualizer")
