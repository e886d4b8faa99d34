# YOLOX-s at half its width: learns from random weights within minutes, on small images and a CPU.
model = dict(
    type="YOLOX",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        pad_size_divisor=32,
        batch_augments=[
            dict(
                type="BatchSyncRandomResize",
                random_size_range=(128, 192),
                size_divisor=32,
                interval=10,
            )
        ],
    ),
    backbone=dict(type="CSPDarknet", deepen_factor=0.33, widen_factor=0.25),
    neck=dict(
        type="YOLOXPAFPN",
        in_channels=[64, 128, 256],
        out_channels=64,
        num_csp_blocks=1,
        upsample_cfg=dict(scale_factor=2, mode="nearest"),
    ),
    bbox_head=dict(type="YOLOXHead", num_classes=8, in_channels=64, feat_channels=64),
    train_cfg=dict(assigner=dict(type="SimOTAAssigner", center_radius=2.5)),
    test_cfg=dict(score_thr=0.01, nms=dict(type="nms", iou_threshold=0.65)),
)
