_base_ = [
    "../_base_/a2u-matting_r34_1xb16-180k_comp1k-512x512.py",
    "../_base_/upsamplers/sapa-b.py",
]
model = dict(decode_head=dict(upsample_cfg=_base_.upsample_cfg))
