upsample_cfg = dict(type="Nearest")
