_base_ = [
    "../_base_/segformer_mit-b1_8xb2-160k_ade20k-512x512.py",
    "../_base_/upsamplers/dysample.py",
]
model = dict(decode_head=dict(type="UpsampleSegformerHead", upsample_cfg=_base_.upsample_cfg))
