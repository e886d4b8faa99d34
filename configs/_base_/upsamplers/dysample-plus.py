# DySample+: linear + pixel shuffle, dynamic scope factor
upsample_cfg = dict(type="DySample", style="lp", groups=4, dyscope=True)
