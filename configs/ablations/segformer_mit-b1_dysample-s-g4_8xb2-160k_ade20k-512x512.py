# DySample, Fig. 5 (b): PL with 4 groups
_base_ = "../segformer/segformer_mit-b1_dysample-s_8xb2-160k_ade20k-512x512.py"
model = dict(decode_head=dict(upsample_cfg=dict(groups=4)))
