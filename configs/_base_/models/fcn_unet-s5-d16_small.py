# A U-Net of a quarter of the usual width: learns from random weights within minutes, on small
# images and a CPU.
_base_ = "mmseg::_base_/models/fcn_unet_s5-d16.py"
norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    data_preprocessor=dict(size_divisor=16, test_cfg=dict(size_divisor=16)),
    backbone=dict(base_channels=16, norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=16, channels=16, dropout_ratio=0.0, num_classes=12, norm_cfg=norm_cfg
    ),
    auxiliary_head=dict(
        in_channels=32, channels=16, dropout_ratio=0.0, num_classes=12, norm_cfg=norm_cfg
    ),
    test_cfg=dict(_delete_=True, mode="whole"),
)
