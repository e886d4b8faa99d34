_base_ = [
    "../_base_/models/panoptic-fpn_r18_fpn_small.py",
    "../_base_/datasets/shapes_panoptic.py",
    "../_base_/schedules/shapes_detection.py",
    "../_base_/mmdet.py",
    "../_base_/upsamplers/dysample.py",
]
model = dict(neck=dict(upsample_cfg=_base_.upsample_cfg))
train_dataloader = dict(batch_size=4)
visualizer = dict(type="PanopticLocalVisualizer")
