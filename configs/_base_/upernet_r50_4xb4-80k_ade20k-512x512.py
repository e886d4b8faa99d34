_base_ = ["mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py", "./mmseg.py"]
model = dict(decode_head=dict(type="UpsampleUPerHead"))

val_evaluator = dict(type="BoundaryIoUMetric")
test_evaluator = val_evaluator

# 4 GPUs x 4 images
auto_scale_lr = dict(enable=False, base_batch_size=16)
