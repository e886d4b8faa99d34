# DySample, Table 3: one group, dynamic scope factor
_base_ = "../segformer/segformer_mit-b1_dysample-plus_8xb2-160k_ade20k-512x512.py"
model = dict(decode_head=dict(upsample_cfg=dict(groups=1)))
