# DySample, Tables 1 and 2: bilinear initialization, scope factor 1
_base_ = "../faster_rcnn/faster-rcnn_r50_fpn-p6_dysample_1x_coco.py"
model = dict(neck=dict(upsample_cfg=dict(groups=1, scope_factor=1.0)))
