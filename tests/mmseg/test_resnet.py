"""StemResNet against mmseg's ResNet."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmseg.models.backbones import ResNet

from mmdysample.mmseg import StemResNet

SMALL = dict(depth=18, base_channels=8, stem_channels=8)


@pytest.mark.parametrize("settings", [{}, dict(deep_stem=True), dict(out_indices=(1, 3))])
def test_it_is_mmsegs_resnet_with_one_map_more(settings):
    ours, upstream = StemResNet(**SMALL, **settings), ResNet(**SMALL, **settings)
    ours.load_state_dict(upstream.state_dict(), strict=True)
    image = torch.randn(2, 3, 45, 70)
    entering = []
    upstream.maxpool.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0].clone()))
    expected = upstream(image)
    outs = ours(image)
    assert outs[0].shape == (2, 8, 23, 35)
    assert outs[0].min() == 0  # after ReLU
    pairs = list(zip(outs, [*entering, *expected], strict=True))
    assert all(torch.equal(out, want) for out, want in pairs)
    for name, value in upstream.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_what_is_frozen():
    frozen = {
        name
        for name, p in StemResNet(50, freeze_stem_and_norms=True).named_parameters()
        if not p.requires_grad
    }
    expected = {"conv1.weight", "bn1.weight", "bn1.bias"}
    for layer, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            for norm in ("bn1", "bn2", "bn3"):
                expected |= {f"layer{layer}.{block}.{norm}.{part}" for part in ("weight", "bias")}
    assert frozen == expected
    assert all(p.requires_grad for p in StemResNet(50).parameters())
    deep = StemResNet(**SMALL, deep_stem=True, freeze_stem_and_norms=True)
    assert not any(p.requires_grad for p in deep.stem.parameters())


def test_frozen_norms_keep_following_the_data():
    backbone = StemResNet(**SMALL, freeze_stem_and_norms=True)
    backbone.init_weights()
    backbone.train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    sum(out.square().mean() for out in backbone(torch.randn(2, 3, 64, 64))).backward()
    optimizer.step()
    moved = {n for n, value in backbone.state_dict().items() if not torch.equal(value, before[n])}
    statistics = {name for name in before if "running" in name or "num_batches" in name}
    assert statistics < moved
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    assert not moved & frozen
    # zero-initialized block ends keep what is before them still in the first step
    assert {"layer2.0.downsample.0.weight", "layer2.0.downsample.1.weight"} <= moved


def test_user_errors():
    with pytest.raises(TypeError, match="freeze_stem_and_norms must be True or False, got 'yes'"):
        StemResNet(**SMALL, freeze_stem_and_norms="yes")
