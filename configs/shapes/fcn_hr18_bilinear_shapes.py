_base_ = [
    "../_base_/models/fcn_hr18_small.py",
    "../_base_/datasets/shapes_segmentation.py",
    "../_base_/schedules/shapes_segmentation.py",
    "../_base_/mmseg.py",
]
