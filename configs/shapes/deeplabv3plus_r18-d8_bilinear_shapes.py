_base_ = [
    "../_base_/models/deeplabv3plus_r18-d8_small.py",
    "../_base_/datasets/shapes_segmentation.py",
    "../_base_/schedules/shapes_segmentation.py",
    "../_base_/mmseg.py",
]
