_base_ = [
    "../_base_/upernet_r50_4xb4-80k_ade20k-512x512.py",
    "../_base_/upsamplers/dysample-s.py",
]
model = dict(decode_head=dict(upsample_cfg=_base_.upsample_cfg))
