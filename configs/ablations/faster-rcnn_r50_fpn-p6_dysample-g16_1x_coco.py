# DySample, Fig. 5 (a): LP with 16 groups
_base_ = "../faster_rcnn/faster-rcnn_r50_fpn-p6_dysample_1x_coco.py"
model = dict(neck=dict(upsample_cfg=dict(groups=16)))
