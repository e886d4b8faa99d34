upsample_cfg = dict(type="Bilinear")
