_base_ = ["mmseg::segformer/segformer_mit-b1_8xb2-160k_ade20k-512x512.py", "./mmseg.py"]

# SegFormer is tested on whole images whose sides are multiples of 32.
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 512), keep_ratio=True),
    dict(type="ResizeToMultiple", size_divisor=32),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(type="BoundaryIoUMetric")
test_evaluator = val_evaluator
auto_scale_lr = dict(enable=False, base_batch_size=16)
