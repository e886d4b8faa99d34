# DepthFormer (Li et al., 2022) with Swin-T on NYU Depth V2, which has no config in mmseg.
_base_ = ["./datasets/nyu_416x544.py", "./depth_runtime.py", "./mmseg.py"]
in_channels = [64, 96, 192, 384, 768]
model = dict(
    type="DepthEstimator",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=_base_.crop_size,
        pad_val=0,
        seg_pad_val=0,  # no depth is known where an image is padded
    ),
    backbone=dict(
        type="DepthFormerSwin",
        drop_path_rate=0.3,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/"
            "swin_tiny_patch4_window7_224_20220317-1cdeb081.pth",
        ),
    ),
    neck=dict(type="HAHINeck", in_channels=in_channels),
    decode_head=dict(
        type="DenseDepthHead",
        in_channels=in_channels,
        min_depth=1e-3,
        max_depth=10.0,
        loss_decode=dict(type="ScaleInvariantLoss", eps=1e-3, unbiased=True),
    ),
    # The mean of an image and its mirror image; all images of NYU Depth V2 are one window.
    test_cfg=dict(mode="slide_flip", crop_size=(480, 640), stride=(480, 640)),
)

# 2 GPUs x 8 images, 25 epochs of 24,231 images
iterations = 38_400
train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_interval=1_600)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys={
            "absolute_pos_embed": dict(decay_mult=0.0),
            "relative_position_bias_table": dict(decay_mult=0.0),
            "norm": dict(decay_mult=0.0),
        }
    ),
    clip_grad=dict(max_norm=35),
)
# The warm-up is a factor of the cosine that goes on beside it.
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=12_800),
    dict(
        type="CosineAnnealingLR",
        by_epoch=False,
        begin=0,
        end=iterations,
        T_max=iterations,
        eta_min_ratio=1e-8,
    ),
]
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    # the reported errors are those of the last checkpoint, not of the best one
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=1_600, max_keep_ckpts=2),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="SegVisualizationHook"),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
