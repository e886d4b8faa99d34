# DySample has four groups, which do not divide HRNet-W18's 18 channels; of the numbers of groups in
# the paper (Fig. 5) two is the largest that does.
_base_ = ["mmseg::hrnet/fcn_hr18_4xb4-80k_ade20k-512x512.py", "../_base_/mmseg.py"]
model = dict(
    type="UpsampleModel", of=_base_.model.type, upsample_cfg=dict(type="DySample", groups=2)
)

# 4 GPUs x 4 images
auto_scale_lr = dict(enable=False, base_batch_size=16)
