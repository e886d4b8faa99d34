# DySample has four groups, which do not divide HRNet-W18's 18 channels; of the numbers of groups in
# the paper (Fig. 5) two is the largest that does.
_base_ = [
    "../_base_/models/fcn_hr18_small.py",
    "../_base_/datasets/shapes_segmentation.py",
    "../_base_/schedules/shapes_segmentation.py",
    "../_base_/mmseg.py",
]
model = dict(
    type="UpsampleModel", of=_base_.model.type, upsample_cfg=dict(type="DySample", groups=2)
)
