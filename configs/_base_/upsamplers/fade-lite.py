# FADE-Lite (the journal version of FADE)
upsample_cfg = dict(type="FADE", gating=True, lite=True)
