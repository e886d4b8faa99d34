# SegNet as in its paper: max unpooling
_base_ = [
    "../_base_/models/segnet_small.py",
    "../_base_/datasets/shapes_segmentation.py",
    "../_base_/schedules/shapes_segmentation.py",
    "../_base_/mmseg.py",
]
