_base_ = ["mmdet::yolox/yolox_s_8xb8-300e_coco.py", "../_base_/mmdet.py"]
model = dict(
    type="UpsampleModel", of=_base_.model.type, upsample_cfg=dict(type="DySample"), targets="neck"
)
