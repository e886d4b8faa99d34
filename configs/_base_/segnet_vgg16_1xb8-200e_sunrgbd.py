# SegNet as in SAPA (NeurIPS 2022), appendix C: VGG-16 with ImageNet's weights, cross entropy, SGD
# at a constant rate, batches of 8, 200 epochs. Not told there, and ours: no dropout, no weight
# decay, and the sizes in datasets/sunrgbd.py.
_base_ = ["mmseg::_base_/default_runtime.py", "./datasets/sunrgbd.py", "./mmseg.py"]
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(480, 480),
    ),
    backbone=dict(
        type="VGG", init_cfg=dict(type="Pretrained", checkpoint="torchvision://vgg16_bn")
    ),
    decode_head=dict(
        type="SegNetHead",
        num_classes=37,
        dropout_ratio=0.0,
        norm_cfg=dict(type="BN", requires_grad=True),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss"),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)

optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.01, momentum=0.9))
param_scheduler = []
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=200, val_interval=10)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
log_processor = dict(by_epoch=True)
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=10, max_keep_ckpts=3),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="SegVisualizationHook"),
)

# 1 GPU x 8 images
auto_scale_lr = dict(enable=False, base_batch_size=8)
