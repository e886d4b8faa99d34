# A2U matting's network (CVPR 2021) with max-poolings, as SAPA (NeurIPS 2022) and FADE compare in it
_base_ = [
    "./datasets/comp1k_512x512.py",
    "./matting_runtime.py",
    "./mmseg.py",
]
model = dict(
    type="A2UMatting",
    data_preprocessor=dict(
        type="MattingDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size_divisor=16,
    ),
    backbone=dict(
        type="MattingResNet",
        depth=34,
        init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet34"),
    ),
    decode_head=dict(
        type="MattingHead",
        upsample_cfg=dict(type="Bilinear"),
        loss_decode=dict(type="MattingLoss", alpha_weight=0.5, composition_weight=0.5),
    ),
)

# 30 epochs of 6,000 iterations
iterations = 180_000
train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_interval=6000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="Adam", lr=1e-2),
    # Pretrained layers learn with 1e-4, and so do the upsamplers: the authors' training script
    # takes 1e-2 for layers by their names, among which the upsamplers' are not.
    paramwise_cfg=dict(
        custom_keys={"backbone": dict(lr_mult=0.01), "upsample_modules": dict(lr_mult=0.01)}
    ),
)
param_scheduler = [
    # after epochs 20 and 26
    dict(type="MultiStepLR", by_epoch=False, milestones=[120_000, 156_000], gamma=0.1)
]
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    # The published numbers are those of the best of the thirty evaluations.
    checkpoint=dict(
        type="CheckpointHook",
        by_epoch=False,
        interval=6000,
        max_keep_ckpts=1,
        save_best="SAD",
        rule="less",
    ),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="SegVisualizationHook"),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
