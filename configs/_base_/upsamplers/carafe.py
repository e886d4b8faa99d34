# CARAFE (ICCV 2019)
upsample_cfg = dict(
    type="CARAFE", up_kernel=5, up_group=1, encoder_kernel=3, compressed_channels=64
)
