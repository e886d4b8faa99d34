_base_ = [
    "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "../_base_/mmdet.py",
    "../_base_/upsamplers/deconv.py",
]
model = dict(neck=dict(type="UpsampleFPN", upsample_cfg=_base_.upsample_cfg))
