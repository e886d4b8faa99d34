_base_ = "./mask-rcnn_r101_fpn_dysample-s_1x_coco.py"
# Four upsampling stages: P6 joins the top-down path (the layout of the paper's Tables 6 and 7).
model = dict(neck=dict(top_down_extra_levels=True))
