# HRNet-W18 with one module a stage, and FCN's head: learns from random weights within minutes, on
# small images and a CPU.
_base_ = "mmseg::_base_/models/fcn_hr18.py"
norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    data_preprocessor=dict(size_divisor=32),
    pretrained=None,
    backbone=dict(
        norm_cfg=norm_cfg,
        extra=dict(
            stage1=dict(num_blocks=(1,), num_channels=(16,)),
            stage2=dict(num_blocks=(1, 1)),
            stage3=dict(num_modules=1, num_blocks=(1, 1, 1)),
            stage4=dict(num_modules=1, num_blocks=(1, 1, 1, 1)),
        ),
    ),
    decode_head=dict(channels=64, num_classes=12, norm_cfg=norm_cfg),
)
