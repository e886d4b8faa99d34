_base_ = [
    "../_base_/models/a2u-matting_r18_small.py",
    "../_base_/datasets/shapes_matting.py",
    "../_base_/schedules/shapes_matting.py",
    "../_base_/mmseg.py",
    "../_base_/upsamplers/fade.py",
]
model = dict(decode_head=dict(upsample_cfg=_base_.upsample_cfg))
