# A BTS that learns from random weights within minutes, on small images and a CPU.
_base_ = "./bts_r50.py"
model = dict(
    backbone=dict(
        depth=18,
        stem_channels=32,
        base_channels=32,
        freeze_stem_and_norms=False,
        init_cfg=None,
    ),
    decode_head=dict(in_channels=[32, 32, 64, 128, 256], channels=64),
)
