_base_ = [
    "../_base_/models/rtmdet_tiny_small.py",
    "../_base_/datasets/shapes_detection.py",
    "../_base_/schedules/shapes_detection.py",
    "../_base_/mmdet.py",
]
model = dict(
    type="UpsampleModel", of=_base_.model.type, upsample_cfg=dict(type="DySample"), targets="neck"
)
train_dataloader = dict(batch_size=4)
