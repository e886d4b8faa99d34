# DySample, Fig. 5 (b): PL with 1 group
_base_ = "../faster_rcnn/faster-rcnn_r50_fpn-p6_dysample-s_1x_coco.py"
model = dict(neck=dict(upsample_cfg=dict(groups=1)))
