"""What the sheets of feature maps, sampling points and predictions share.

stages.py  the upsamplers of a model while it predicts: inputs and results
colors.py  colors of feature maps, kernels and offsets
zoom.py    the enlarged part of an image
"""
