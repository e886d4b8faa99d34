# DySample, Table 3: one group, dynamic scope factor
_base_ = "../faster_rcnn/faster-rcnn_r50_fpn-p6_dysample-plus_1x_coco.py"
model = dict(neck=dict(upsample_cfg=dict(groups=1)))
