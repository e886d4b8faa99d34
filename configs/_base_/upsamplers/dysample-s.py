# DySample-S: pixel shuffle + linear, static scope factor
upsample_cfg = dict(type="DySample", style="pl", groups=8, dyscope=False)
