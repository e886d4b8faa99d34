_base_ = ["mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py", "../_base_/mmseg.py"]
model = dict(type="UpsampleModel", of=_base_.model.type, upsample_cfg=dict(type="DySample"))

# 4 GPUs x 4 images
auto_scale_lr = dict(enable=False, base_batch_size=16)
