_base_ = [
    "../_base_/models/depthformer_swin-small.py",
    "../_base_/datasets/shapes_depth.py",
    "../_base_/schedules/shapes_depth.py",
    "../_base_/mmseg.py",
    "../_base_/upsamplers/sapa-b.py",
]
model = dict(decode_head=dict(upsample_cfg=_base_.upsample_cfg))
