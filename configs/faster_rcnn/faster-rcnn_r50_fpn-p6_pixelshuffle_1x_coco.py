_base_ = "./faster-rcnn_r50_fpn_pixelshuffle_1x_coco.py"
# Four upsampling stages: P6 joins the top-down path (the layout of the paper's Table 6).
model = dict(neck=dict(top_down_extra_levels=True))
