# FADE (ECCV 2022) without its gate: what the DySample paper's tables compare with
upsample_cfg = dict(type="FADE", gating=False, lite=False)
