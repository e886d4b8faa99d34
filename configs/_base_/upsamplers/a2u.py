# A2U (CVPR 2021), 'dynamic-cs-d'
upsample_cfg = dict(type="A2U")
