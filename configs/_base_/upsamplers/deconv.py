# Transposed convolution, 3x3, stride 2 (the DySample paper's baseline)
upsample_cfg = dict(type="Deconv")
