_base_ = ["mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py", "../_base_/mmdet.py"]
model = dict(
    type="UpsampleModel", of=_base_.model.type, upsample_cfg=dict(type="DySample"), targets="neck"
)

# 8 GPUs x 32 images
auto_scale_lr = dict(enable=False, base_batch_size=256)
