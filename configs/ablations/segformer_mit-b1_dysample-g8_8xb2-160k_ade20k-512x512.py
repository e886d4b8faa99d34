# DySample, Fig. 5 (a): LP with 8 groups
_base_ = "../segformer/segformer_mit-b1_dysample_8xb2-160k_ade20k-512x512.py"
model = dict(decode_head=dict(upsample_cfg=dict(groups=8)))
