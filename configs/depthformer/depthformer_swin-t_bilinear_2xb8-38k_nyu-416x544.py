_base_ = "../_base_/depthformer_swin-t_2xb8-38k_nyu-416x544.py"
# Not ../_base_/upsamplers/bilinear.py: the paper's row was measured with aligned corners.
model = dict(decode_head=dict(upsample_cfg=dict(type="Bilinear", align_corners=True)))
