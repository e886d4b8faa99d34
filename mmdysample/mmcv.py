"""Importing this module registers every upsampler in MMCV's registries.

Afterwards ``mmcv.cnn.build_upsample_layer(dict(type='DySample'), in_channels=256, scale_factor=2)``
and ``type='DySample'`` in any config work. mmcv 2.x looks upsamplers up in mmengine's ``MODELS``,
where `UpsampleModel` is registered as well, mmcv 1.x in ``mmcv.cnn.UPSAMPLE_LAYERS``.
"""

from __future__ import annotations

from mmdysample.registry import for_each_upsampler, is_same_definition

try:
    import mmcv
except ImportError as error:
    raise ImportError(
        "mmdysample.mmcv needs mmcv (1.x or 2.x): pip install 'mmdysample[mmdet]' brings it"
    ) from error

if int(mmcv.__version__.split(".")[0]) >= 2:
    from mmengine.registry import MODELS as UPSAMPLE_LAYERS

    import mmdysample.upsample_model  # noqa: F401 - registers it
else:
    from mmcv.cnn import UPSAMPLE_LAYERS


def _register(cls: type) -> None:
    before = UPSAMPLE_LAYERS.module_dict.get(cls.__name__)
    if before is not cls:
        again = before is not None and is_same_definition(before, cls)
        UPSAMPLE_LAYERS.register_module(name=cls.__name__, module=cls, force=again)


for_each_upsampler(_register)
