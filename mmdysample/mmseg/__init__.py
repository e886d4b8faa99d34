"""Hosts for mmseg: ``custom_imports = dict(imports=['mmdysample.mmseg'])`` in a config."""

try:
    import mmseg  # noqa: F401 - only to say what is missing
except ImportError as error:
    raise ImportError(
        f"mmdysample.mmseg needs mmsegmentation 1.x: pip install 'mmdysample[mmseg]' ({error})"
    ) from error

import mmdysample.mmcv  # noqa: F401 - registers the upsamplers
from mmdysample.mmseg.segformer_head import UpsampleSegformerHead

__all__ = ["UpsampleSegformerHead"]
