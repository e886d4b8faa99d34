"""Image matting: the network of A2U matting with any upsampler, for mmseg's runtime."""
