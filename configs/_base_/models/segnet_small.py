# A SegNet that learns from random weights within minutes, on small images and a CPU.
num_convs = (2, 2, 2, 2)
widths = (16, 32, 64, 128)
norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size_divisor=16,
    ),
    backbone=dict(type="VGG", num_convs=num_convs, widths=widths),
    decode_head=dict(
        type="SegNetHead",
        num_convs=num_convs,
        widths=widths,
        num_classes=12,
        dropout_ratio=0.0,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss"),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
