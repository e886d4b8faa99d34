# 3x3 convolution to 4*C channels and pixel shuffle (the DySample paper's baseline)
upsample_cfg = dict(type="PixelShuffle")
