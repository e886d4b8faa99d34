# DySample (ICCV 2023, section 3.2): linear + pixel shuffle, static scope factor
upsample_cfg = dict(type="DySample", style="lp", groups=4, dyscope=False)
