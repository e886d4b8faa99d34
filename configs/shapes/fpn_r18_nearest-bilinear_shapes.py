# mmseg's Semantic FPN as it is: nearest in the neck, bilinear in the head
_base_ = [
    "../_base_/models/fpn_r18_small.py",
    "../_base_/datasets/shapes_segmentation.py",
    "../_base_/schedules/shapes_segmentation.py",
    "../_base_/mmseg.py",
]
