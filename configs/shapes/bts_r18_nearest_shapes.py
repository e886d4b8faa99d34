_base_ = [
    "../_base_/models/bts_r18_small.py",
    "../_base_/datasets/shapes_depth.py",
    "../_base_/schedules/shapes_depth.py",
    "../_base_/mmseg.py",
    "../_base_/upsamplers/nearest.py",
]
model = dict(decode_head=dict(upsample_cfg=_base_.upsample_cfg))
