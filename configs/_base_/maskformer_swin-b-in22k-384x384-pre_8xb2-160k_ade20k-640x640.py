# MaskFormer (NeurIPS 2021) with Swin-B, which mmseg has with Swin-T and Swin-S: their schedule, and
# the larger models' pretraining, crops and scales.
_base_ = [
    "mmseg::maskformer/maskformer_swin-s_upernet_8xb2-160k_ade20k-512x512.py",
    "./mmseg.py",
]
checkpoint_file = (
    "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/"
    "swin_base_patch4_window12_384_22k_20220317-e5c09f74.pth"
)
crop_size = (640, 640)
data_preprocessor = dict(size=crop_size, test_cfg=dict(size_divisor=32))
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(
        pretrain_img_size=384,
        embed_dims=128,
        num_heads=[4, 8, 16, 32],
        window_size=12,
        init_cfg=dict(checkpoint=checkpoint_file),
    ),
    decode_head=dict(type="UpsampleMaskFormerHead", in_channels=[128, 256, 512, 1024]),
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(
        type="RandomChoiceResize",
        scales=list(range(320, 1281, 64)),
        resize_type="ResizeShortestEdge",
        max_size=2560,
    ),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2560, 640), keep_ratio=True),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(type="BoundaryIoUMetric")
test_evaluator = val_evaluator

# 8 GPUs x 2 images
auto_scale_lr = dict(enable=False, base_batch_size=16)
