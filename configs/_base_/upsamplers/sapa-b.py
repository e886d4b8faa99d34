# SAPA-B (NeurIPS 2022): bilinear similarity
upsample_cfg = dict(type="SAPA", variant="b", kernel_size=5, embedding_dim=32)
