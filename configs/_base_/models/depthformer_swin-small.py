# A DepthFormer that learns from random weights within minutes, on small images and a CPU.
in_channels = [16, 16, 32, 64, 128]
model = dict(
    type="DepthEstimator",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(128, 128),
        pad_val=0,
        seg_pad_val=0,  # no depth is known where an image is padded
    ),
    backbone=dict(
        type="DepthFormerSwin",
        embed_dims=16,
        depths=(1, 1, 2, 1),
        num_heads=(1, 2, 4, 8),
        window_size=4,
        drop_path_rate=0.0,
        stem_channels=16,
    ),
    neck=dict(
        type="HAHINeck",
        in_channels=in_channels,
        embed_dims=32,
        num_heads=2,
        num_points=2,
        dropout=0.0,
    ),
    decode_head=dict(
        type="DenseDepthHead",
        in_channels=in_channels,
        min_depth=1e-3,
        max_depth=10.0,
        scale_up=True,  # from random weights the ReLU soon passes nothing on
        loss_decode=dict(type="ScaleInvariantLoss", eps=1e-3, unbiased=True),
    ),
    # The mean of an image and its mirror image, in one window.
    test_cfg=dict(mode="slide_flip", crop_size=(160, 160), stride=(160, 160)),
)
