# NYU Depth V2 with the augmentation of BTS: every image is rotated, gamma is of values from 0 to 1.
_base_ = "nyu_416x544.py"
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadDepthAnnotation", depth_rescale_factor=_base_.depth_rescale_factor),
    dict(type="NYUCrop"),
    dict(type="RandomRotate", prob=1.0, degree=2.5, seg_pad_val=0),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomCrop", crop_size=_base_.crop_size),
    dict(type="DepthColorAug", prob=0.5, white=1),
    dict(type="PackSegInputs", meta_keys=_base_.meta_keys),
]
train_dataloader = dict(
    batch_size=4,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(pipeline=train_pipeline),
)
