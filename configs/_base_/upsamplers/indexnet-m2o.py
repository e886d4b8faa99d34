# IndexNet (ICCV 2019), depthwise many-to-one
upsample_cfg = dict(type="IndexNet", variant="m2o")
