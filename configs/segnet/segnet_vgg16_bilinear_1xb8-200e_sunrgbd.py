_base_ = ["../_base_/segnet_vgg16_1xb8-200e_sunrgbd.py", "../_base_/upsamplers/bilinear.py"]
model = dict(decode_head=dict(upsample_cfg=_base_.upsample_cfg))
