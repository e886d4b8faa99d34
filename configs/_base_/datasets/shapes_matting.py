# Alpha mattes of the Shapes data set: python tools/make_shapes.py data/shapes
data_root = "data/shapes"
crop_size = 128

train_pipeline = [
    dict(type="LoadForeground"),
    # no second foreground: objects would mostly hide each other on small images
    dict(type="RandomForegroundAffine", max_rotation=30, min_rotated_side=0),
    dict(type="GenerateTrimap", kernel_size=(1, 9)),
    dict(type="LoadBackground"),
    dict(type="CropAroundUnknown", crop_size=crop_size),
    dict(type="JitterForeground"),
    dict(type="CompositeForeground"),
    dict(type="PackMattingInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadTrimap"),
    dict(type="LoadAlphaAnnotations"),
    dict(type="PackMattingInputs"),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="ComposedMattingDataset",
        data_root=data_root,
        data_prefix=dict(
            fg_path="matting/training/fg",
            alpha_path="matting/training/alpha",
            bg_path="matting/training/bg",
        ),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="MattingDataset",
        data_root=data_root,
        data_prefix=dict(
            img_path="images/validation",
            trimap_path="matting/validation/trimap",
            alpha_path="matting/validation/alpha",
        ),
        # an image without an object has no matte
        leave_out_images=True,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="MattingMetric")
test_evaluator = val_evaluator
