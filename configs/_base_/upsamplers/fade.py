# FADE (ECCV 2022)
upsample_cfg = dict(type="FADE", gating=True, lite=False)
