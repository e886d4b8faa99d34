"""SegNet with any upsampler, for mmseg's runtime."""
