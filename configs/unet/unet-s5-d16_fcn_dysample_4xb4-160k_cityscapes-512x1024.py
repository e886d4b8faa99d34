_base_ = ["mmseg::unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py", "../_base_/mmseg.py"]
model = dict(
    type="UpsampleModel",
    of=_base_.model.type,
    upsample_cfg=dict(type="DySample"),
    targets="backbone",
)

# 4 GPUs x 4 images
auto_scale_lr = dict(enable=False, base_batch_size=16)
