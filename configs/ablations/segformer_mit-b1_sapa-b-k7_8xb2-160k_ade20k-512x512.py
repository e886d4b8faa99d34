# SAPA, Table 6: SAPA-B with another setting
_base_ = "../segformer/segformer_mit-b1_sapa-b_8xb2-160k_ade20k-512x512.py"
model = dict(decode_head=dict(upsample_cfg=dict(kernel_size=7)))
