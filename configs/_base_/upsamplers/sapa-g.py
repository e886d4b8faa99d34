# SAPA-G (NeurIPS 2022): gated bilinear similarity
upsample_cfg = dict(type="SAPA", variant="g", kernel_size=5, embedding_dim=32)
