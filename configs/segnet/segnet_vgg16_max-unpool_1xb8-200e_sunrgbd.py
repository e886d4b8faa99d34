# SegNet as in its paper: max unpooling
_base_ = "../_base_/segnet_vgg16_1xb8-200e_sunrgbd.py"
