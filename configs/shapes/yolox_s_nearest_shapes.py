_base_ = [
    "../_base_/models/yolox_s_small.py",
    "../_base_/datasets/shapes_detection.py",
    "../_base_/schedules/shapes_detection.py",
    "../_base_/mmdet.py",
]
train_dataloader = dict(batch_size=4)
