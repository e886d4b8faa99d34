# Label maps of the Shapes data set: python tools/make_shapes.py data/shapes
# Laid out as ADE20K, but ADE20KDataset takes ADE20K's own classes only.
dataset_type = "BaseSegDataset"
data_root = "data/shapes"
metainfo = dict(
    classes=(
        "disk",
        "ring",
        "star",
        "bar",
        "triangle",
        "cross",
        "crescent",
        "flower",
        "sky",
        "hills",
        "water",
        "ground",
    ),
    palette=[
        [230, 57, 70],
        [247, 140, 30],
        [255, 209, 35],
        [240, 240, 240],
        [32, 178, 110],
        [0, 187, 212],
        [150, 90, 220],
        [240, 98, 170],
        [135, 190, 235],
        [85, 115, 60],
        [35, 90, 160],
        [175, 140, 95],
    ],
)
image_scale = (160, 160)
crop_size = (128, 128)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=image_scale, ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    # no PhotoMetricDistortion: hue is a hint of the class here, and short runs need it
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=image_scale, keep_ratio=True),
    # after Resize: the ground truth keeps its own size
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
img_ratios = [0.75, 1.0, 1.25]
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale_factor=ratio, keep_ratio=True) for ratio in img_ratios],
            [
                dict(type="RandomFlip", prob=0.0, direction="horizontal"),
                dict(type="RandomFlip", prob=1.0, direction="horizontal"),
            ],
            [dict(type="LoadAnnotations")],
            [dict(type="PackSegInputs")],
        ],
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        reduce_zero_label=True,
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
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
        metainfo=metainfo,
        reduce_zero_label=True,
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
