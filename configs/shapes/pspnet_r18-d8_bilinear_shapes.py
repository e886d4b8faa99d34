# PSPNet enlarges only maps of a fixed size, pooled from the whole image, by a ratio that changes
# with the image size: all are kept, so that there is no PSPNet with a learned upsampler.
# tools/analysis/upsampling_sites.py lists them.
_base_ = [
    "../_base_/models/pspnet_r18-d8_small.py",
    "../_base_/datasets/shapes_segmentation.py",
    "../_base_/schedules/shapes_segmentation.py",
    "../_base_/mmseg.py",
]
