# A SegFormer that learns from random weights within minutes, on small images and a CPU.
_base_ = "mmseg::_base_/models/segformer_mit-b0.py"
norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    data_preprocessor=dict(size_divisor=32),
    backbone=dict(embed_dims=16, num_heads=[1, 2, 4, 8], drop_path_rate=0.0),
    decode_head=dict(
        type="UpsampleSegformerHead",
        in_channels=[16, 32, 64, 128],
        channels=64,
        dropout_ratio=0.0,
        num_classes=12,
        norm_cfg=norm_cfg,
    ),
)
