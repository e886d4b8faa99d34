_base_ = [
    "../_base_/bts_r50_1xb4-50e_nyu-416x544.py",
    "../_base_/upsamplers/nearest.py",
]
model = dict(decode_head=dict(upsample_cfg=_base_.upsample_cfg))
