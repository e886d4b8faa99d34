# DySample, Table 1: nearest initialization, without a scope factor
_base_ = "../segformer/segformer_mit-b1_dysample_8xb2-160k_ade20k-512x512.py"
model = dict(
    decode_head=dict(upsample_cfg=dict(groups=1, scope_factor=1.0, initial_position="nearest"))
)
