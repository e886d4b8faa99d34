# NYU Depth V2 with the augmentation of DepthFormer: docs/depth.md says how to prepare data/nyu.
dataset_type = "NYUDataset"
data_root = "data/nyu"
# 16-bit PNG files in millimeters
depth_rescale_factor = 1e-3
crop_size = (416, 544)
meta_keys = (
    *("img_path", "depth_map_path", "ori_shape", "img_shape", "pad_shape"),
    *("scale_factor", "flip", "flip_direction"),
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadDepthAnnotation", depth_rescale_factor=depth_rescale_factor),
    dict(type="NYUCrop"),
    # seg_pad_val=0: no depth is known where the rotated image ends
    dict(type="RandomRotate", prob=0.5, degree=2.5, seg_pad_val=0),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomCrop", crop_size=crop_size),
    dict(type="DepthColorAug", prob=0.5, white=255),
    dict(type="PackSegInputs", meta_keys=meta_keys),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadDepthAnnotation", depth_rescale_factor=depth_rescale_factor),
    dict(type="PackSegInputs", meta_keys=meta_keys),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path="images/train", depth_map_path="annotations/train"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        test_mode=True,
        data_prefix=dict(img_path="images/test", depth_map_path="annotations/test"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    type="DepthErrorMetric", min_depth_eval=1e-3, max_depth_eval=10.0, crop_type="nyu_crop"
)
test_evaluator = val_evaluator
