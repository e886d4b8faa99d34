# BTS on NYU Depth V2, trained as its authors did: 24,231 images, 6,058 steps an epoch.
_base_ = [
    "./models/bts_r50.py",
    "./datasets/nyu_416x544_bts.py",
    "./depth_runtime.py",
    "./mmseg.py",
]
epochs = 50
# The authors evaluate every 500 steps and keep the best checkpoint of each metric.
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=epochs, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, eps=1e-3, weight_decay=0.01),
    paramwise_cfg=dict(custom_keys={"decode_head": dict(decay_mult=0.0)}),
)
# in every step, not in every epoch
param_scheduler = dict(
    type="PolyLR",
    power=0.9,
    eta_min=1e-5,
    begin=0,
    end=epochs,
    by_epoch=True,
    convert_to_iter_based=True,
)
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(
        type="CheckpointHook", interval=1, max_keep_ckpts=1, save_best="rmse", rule="less"
    ),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="SegVisualizationHook"),
)
log_processor = dict(by_epoch=True)
auto_scale_lr = dict(enable=False, base_batch_size=4)
