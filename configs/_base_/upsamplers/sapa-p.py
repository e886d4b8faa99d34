# Plain addition (SAPA, NeurIPS 2022, Table 6): SAPA-G without its gate
upsample_cfg = dict(type="SAPA", variant="p", kernel_size=5, embedding_dim=32)
