_base_ = ["../_base_/panoptic-fpn_r50_fpn_1x_coco.py", "../_base_/upsamplers/carafe.py"]
model = dict(neck=dict(type="UpsampleFPN", upsample_cfg=_base_.upsample_cfg))
