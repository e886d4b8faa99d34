# DySample, Table 2 (scope factor 0.25), Table 3 and Fig. 5 (one group)
_base_ = "../segformer/segformer_mit-b1_dysample_8xb2-160k_ade20k-512x512.py"
model = dict(decode_head=dict(upsample_cfg=dict(groups=1)))
