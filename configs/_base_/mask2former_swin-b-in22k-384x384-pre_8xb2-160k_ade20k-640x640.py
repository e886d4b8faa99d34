_base_ = [
    "mmseg::mask2former/mask2former_swin-b-in22k-384x384-pre_8xb2-160k_ade20k-640x640.py",
    "./mmseg.py",
]
model = dict(
    decode_head=dict(pixel_decoder=dict(type="mmdet.UpsampleMSDeformAttnPixelDecoder")),
)

val_evaluator = dict(type="BoundaryIoUMetric")
test_evaluator = val_evaluator
