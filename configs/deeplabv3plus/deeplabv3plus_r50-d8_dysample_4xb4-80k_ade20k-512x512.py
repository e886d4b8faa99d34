_base_ = [
    "mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py",
    "../_base_/mmseg.py",
]
model = dict(
    type="UpsampleModel",
    of=_base_.model.type,
    upsample_cfg=dict(type="DySample"),
    targets="decode_head",
)

# 4 GPUs x 4 images
auto_scale_lr = dict(enable=False, base_batch_size=16)
