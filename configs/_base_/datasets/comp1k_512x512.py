# Composition-1k, as tools/dataset_converters/comp1k.py lays it out: docs/matting.md
data_root = "data/comp1k"
crop_size = 512

train_pipeline = [
    dict(type="LoadForeground"),
    dict(type="MergeForegrounds", prob=0.5),
    dict(type="ResizeForeground", size=640, prob=0.25),
    dict(type="RandomForegroundAffine"),
    dict(type="GenerateTrimap", kernel_size=(1, 29)),
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
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="ComposedMattingDataset",
        data_root=data_root,
        # relative to data_root: the training images of COCO 2014
        data_prefix=dict(fg_path="train/fg", alpha_path="train/alpha", bg_path="../coco/train2014"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="MattingDataset",
        data_root=data_root,
        data_prefix=dict(
            img_path="test/merged", trimap_path="test/trimap", alpha_path="test/alpha"
        ),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="MattingMetric")
test_evaluator = val_evaluator
