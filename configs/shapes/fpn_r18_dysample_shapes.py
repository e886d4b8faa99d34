_base_ = [
    "../_base_/models/fpn_r18_small.py",
    "../_base_/datasets/shapes_segmentation.py",
    "../_base_/schedules/shapes_segmentation.py",
    "../_base_/mmseg.py",
]
model = dict(type="UpsampleModel", of=_base_.model.type, upsample_cfg=dict(type="DySample"))
