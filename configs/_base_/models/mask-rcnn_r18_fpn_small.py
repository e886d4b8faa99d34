# A Mask R-CNN that learns from random weights within minutes, on small images and a CPU.
_base_ = "./faster-rcnn_r18_fpn_small.py"
channels = 64
model = dict(
    type="MaskRCNN",
    data_preprocessor=dict(pad_mask=True),
    roi_head=dict(
        mask_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=14, sampling_ratio=1),
            out_channels=channels,
            featmap_strides=[4, 8, 16, 32],
            finest_scale=28,
        ),
        mask_head=dict(
            type="FCNMaskHead",
            num_convs=2,
            in_channels=channels,
            conv_out_channels=channels,
            num_classes=8,
            loss_mask=dict(type="CrossEntropyLoss", use_mask=True, loss_weight=1.0),
        ),
    ),
    train_cfg=dict(rcnn=dict(mask_size=28)),
    test_cfg=dict(rcnn=dict(mask_thr_binary=0.5)),
)
