# A Faster R-CNN that learns from random weights within minutes, on small images and a CPU.
_base_ = "mmdet::_base_/models/faster-rcnn_r50_fpn.py"
channels = 64
model = dict(
    backbone=dict(depth=18, base_channels=32, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(
        type="UpsampleFPN",
        in_channels=[32, 64, 128, 256],
        out_channels=channels,
        norm_cfg=dict(type="BN"),
    ),
    rpn_head=dict(in_channels=channels, feat_channels=channels, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(
            out_channels=channels, finest_scale=28, roi_layer=dict(sampling_ratio=1)
        ),
        bbox_head=dict(in_channels=channels, fc_out_channels=256, num_classes=8),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=50)),
)
