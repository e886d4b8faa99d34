# A small matting network: learns from random weights within minutes, on small images and a CPU.
norm_cfg = dict(type="BN")
model = dict(
    type="A2UMatting",
    data_preprocessor=dict(
        type="MattingDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size_divisor=16,
    ),
    backbone=dict(type="MattingResNet", depth=18, base_channels=16, norm_cfg=norm_cfg),
    decode_head=dict(
        type="MattingHead",
        base_channels=16,
        # the coarsest map of a crop has 8x8 pixels
        dilations=(1, 2, 3),
        dropout_ratio=0.0,
        norm_cfg=norm_cfg,
        loss_decode=dict(type="MattingLoss"),
    ),
)
