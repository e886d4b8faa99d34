_base_ = [
    "../_base_/maskformer_swin-b-in22k-384x384-pre_8xb2-160k_ade20k-640x640.py",
    "../_base_/upsamplers/carafe.py",
]
model = dict(decode_head=dict(upsample_cfg=_base_.upsample_cfg))
