_base_ = "./mask-rcnn_r50_fpn_dysample_1x_coco.py"
# The mask head upsamples with DySample too, in place of a 2x2 transposed convolution.
model = dict(
    roi_head=dict(mask_head=dict(type="UpsampleFCNMaskHead", upsample_cfg=_base_.upsample_cfg))
)
