# SAPA-I (NeurIPS 2022): inner-product similarity
upsample_cfg = dict(type="SAPA", variant="i", kernel_size=5)
