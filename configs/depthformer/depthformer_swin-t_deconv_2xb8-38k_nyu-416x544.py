_base_ = [
    "../_base_/depthformer_swin-t_2xb8-38k_nyu-416x544.py",
    "../_base_/upsamplers/deconv.py",
]
model = dict(decode_head=dict(upsample_cfg=_base_.upsample_cfg))
