# FADE-Lite: the parameter-efficient FADE of its extended paper
upsample_cfg = dict(type="FADE", gating=True, lite=True)
