# A PSPNet that learns from random weights within minutes, on small images and a CPU.
_base_ = "mmseg::_base_/models/pspnet_r50-d8.py"
norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    data_preprocessor=dict(size_divisor=32),
    pretrained=None,
    backbone=dict(depth=18, base_channels=32, norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=256, channels=64, dropout_ratio=0.0, num_classes=12, norm_cfg=norm_cfg
    ),
    auxiliary_head=dict(in_channels=128, channels=32, num_classes=12, norm_cfg=norm_cfg),
)
