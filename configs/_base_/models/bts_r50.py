# BTS with ResNet-50 (Lee et al., arXiv 1907.10326): https://github.com/cleinc/bts
model = dict(
    type="DepthEstimator",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=0,
        size_divisor=32,
    ),
    backbone=dict(
        type="StemResNet",
        depth=50,
        # the stem and the normalizations keep ImageNet's weights
        freeze_stem_and_norms=True,
        init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet50"),
    ),
    decode_head=dict(
        type="BTSHead",
        in_channels=[64, 256, 512, 1024, 2048],
        channels=512,
        min_depth=1e-3,
        max_depth=10.0,
        loss_decode=dict(type="ScaleInvariantLoss", scale=10.0, min_depth=0.1),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
