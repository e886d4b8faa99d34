"""A small depth estimator of parts that mmseg has; DATA is filled in."""

default_scope = "mmseg"
custom_imports = dict(imports=["mmdysample.mmseg"], allow_failed_imports=False)

model = dict(
    type="DepthEstimator",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[127.5] * 3,
        std=[64.0] * 3,
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=0,
        size=(64, 64),
        test_cfg=dict(size_divisor=32),
    ),
    backbone=dict(
        type="MixVisionTransformer",
        in_channels=3,
        embed_dims=16,
        num_stages=4,
        num_layers=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        patch_sizes=[7, 3, 3, 3],
        sr_ratios=[8, 4, 2, 1],
        out_indices=(0, 1, 2, 3),
        mlp_ratio=2,
    ),
    decode_head=dict(
        type="VPDDepthHead",
        in_channels=[16, 16, 16, 16],
        embed_dim=2,
        feature_dim=16,
        num_deconv_layers=3,
        num_deconv_filters=(16, 16, 16),
        max_depth=10.0,
        loss_decode=dict(type="ScaleInvariantLoss"),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadDepthAnnotation", depth_rescale_factor=1e-3),
    dict(type="RandomRotate", prob=0.5, degree=2.5, seg_pad_val=0),
    dict(type="RandomCrop", crop_size=(48, 48)),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadDepthAnnotation", depth_rescale_factor=1e-3),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="NYUDataset",
        data_root="DATA",
        data_prefix=dict(img_path="images", depth_map_path="depth"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="NYUDataset",
        data_root="DATA",
        data_prefix=dict(img_path="images", depth_map_path="depth"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="DepthErrorMetric")
test_evaluator = val_evaluator

train_cfg = dict(type="IterBasedTrainLoop", max_iters=2, val_interval=2)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.01))
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=1, log_metric_by_epoch=False),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=2, max_keep_ckpts=1),
    visualization=dict(type="SegVisualizationHook"),
)
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="DepthLocalVisualizer", vis_backends=vis_backends, name="visualizer")
log_processor = dict(by_epoch=False)
env_cfg = dict(dist_cfg=dict(backend="nccl"))
