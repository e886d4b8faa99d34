# DySample-S+: pixel shuffle + linear, dynamic scope factor
upsample_cfg = dict(type="DySample", style="pl", groups=8, dyscope=True)
