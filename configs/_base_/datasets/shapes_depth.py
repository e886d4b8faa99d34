# Depth of the Shapes data set: python tools/make_shapes.py data/shapes
dataset_type = "NYUDataset"
data_root = "data/shapes"
# 16-bit PNG files in millimeters
depth_rescale_factor = 1e-3
crop_size = (128, 128)
meta_keys = (
    *("img_path", "depth_map_path", "ori_shape", "img_shape", "pad_shape"),
    *("scale_factor", "flip", "flip_direction"),
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadDepthAnnotation", depth_rescale_factor=depth_rescale_factor),
    # no resizing: an object's size in pixels tells its distance
    dict(type="RandomCrop", crop_size=crop_size),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs", meta_keys=meta_keys),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadDepthAnnotation", depth_rescale_factor=depth_rescale_factor),
    dict(type="PackSegInputs", meta_keys=meta_keys),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path="images/training", depth_map_path="depth/training"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        test_mode=True,
        data_prefix=dict(img_path="images/validation", depth_map_path="depth/validation"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    type="DepthErrorMetric", min_depth_eval=1e-3, max_depth_eval=10.0, crop_type=None
)
test_evaluator = val_evaluator
