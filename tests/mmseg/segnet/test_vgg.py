"""VGG as SegNet's encoder: torchvision's names and sizes, and the maps that it gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.registry import DefaultScope
from mmseg.registry import MODELS

from mmdysample.mmseg.segnet import VGG
from tests.reference.segnet import encoder
from tests.utils import assert_close

SMALL = dict(num_convs=(2, 1, 3), widths=(4, 6, 8))
# Of torchvision's vgg16_bn: number and shape of the convolutions, each of which is followed by a
# normalization, and after 2, 2, 3, 3 and 3 of them by a pool.
VGG16 = {
    **{0: (64, 3), 3: (64, 64), 7: (128, 64), 10: (128, 128)},
    **{14: (256, 128), 17: (256, 256), 20: (256, 256)},
    **{24: (512, 256), 27: (512, 512), 30: (512, 512)},
    **{34: (512, 512), 37: (512, 512), 40: (512, 512)},
}


def make(**settings) -> VGG:
    """With running statistics of no special values."""
    model = VGG(**SMALL | settings)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.running_mean, module.weight.data, module.bias.data):
                value.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def test_names_and_shapes_are_those_of_torchvisions_vgg16_bn():
    with torch.device("meta"):
        state = VGG().state_dict()
    expected = {}
    for n, (out_channels, in_channels) in VGG16.items():
        expected[f"features.{n}.weight"] = (out_channels, in_channels, 3, 3)
        expected[f"features.{n}.bias"] = (out_channels,)
        for name in ("weight", "bias", "running_mean", "running_var"):
            expected[f"features.{n + 1}.{name}"] = (out_channels,)
        expected[f"features.{n + 1}.num_batches_tracked"] = ()
    assert {name: tuple(value.shape) for name, value in state.items()} == expected


def test_parameters():
    with torch.device("meta"):
        model = VGG()
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert sum(p.numel() for conv in convs for p in conv.parameters()) == 14_714_688
    assert sum(p.numel() for p in model.parameters()) == 14_723_136


@pytest.mark.parametrize("size", [(32, 24), (37, 29), (8, 8)])
def test_maps_are_those_of_a_second_implementation(size):
    model, image = make(), torch.randn(2, 3, *size)
    outs = model(image)
    height, width = size
    expected_sizes = [(height >> n, width >> n) for n in range(4)]
    assert [tuple(out.shape[2:]) for out in outs] == expected_sizes
    assert [out.shape[1] for out in outs] == [4, 6, 8, 8]
    expected = encoder(image, model.state_dict(), SMALL["num_convs"])
    for out, reference in zip(outs, expected, strict=True):
        assert_close(out, reference)


def test_it_is_pretrained_from_a_checkpoint_with_more_in_it(tmp_path):
    """Torchvision's has fully connected layers."""
    saved = make().state_dict()
    torch.save({**saved, "classifier.0.weight": torch.zeros(4096, 25088)}, tmp_path / "vgg.pth")
    init_cfg = dict(type="Pretrained", checkpoint=str(tmp_path / "vgg.pth"))
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(dict(type="VGG", init_cfg=init_cfg, **SMALL))
    model.init_weights()
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def test_what_a_user_can_get_wrong():
    with pytest.raises(ValueError, match=r"at least 8x8 pixels, got 7x40"):
        make()(torch.randn(1, 3, 7, 40))
    with pytest.raises(ValueError, match=r"num_convs=\(2, 2\) and widths=\(8,\)"):
        VGG(num_convs=(2, 2), widths=(8,))
    with pytest.raises(ValueError, match="at least one, got"):
        VGG(num_convs=(), widths=())
    with pytest.raises(ValueError, match=r"num_convs\[1\] must be an integer >= 1, got 0"):
        VGG(num_convs=(1, 0), widths=(8, 8))
    with pytest.raises(TypeError, match=r"widths\[0\] must be an integer >= 1, got 8.5"):
        VGG(num_convs=(1, 1), widths=(8.5, 8))
