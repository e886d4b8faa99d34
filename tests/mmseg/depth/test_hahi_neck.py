"""HAHINeck against a second implementation, by loops and by mmcv's function."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

from mmdysample.mmseg.depth import HAHINeck
from mmdysample.mmseg.depth.hahi_neck import encode_positions, pixel_centers
from tests.loaders import LOADERS
from tests.reference.depthformer import attend_by_loops, hahi_neck
from tests.utils import assert_close, randomize

IN_CHANNELS = [4, 6, 8]
SMALL = dict(embed_dims=8, num_heads=2, num_points=3)


def make(in_channels=IN_CHANNELS, **kwargs) -> HAHINeck:
    neck = randomize(HAHINeck(in_channels, **SMALL | kwargs), 0.5)
    for module in neck.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return neck.eval()


def make_inputs(sizes, in_channels=IN_CHANNELS, batch=2) -> list[torch.Tensor]:
    return [torch.randn(batch, c, *size) for c, size in zip(in_channels, sizes, strict=True)]


@pytest.mark.parametrize(
    ("attend", "sizes"),
    [
        (attend_by_loops, [(3, 5), (2, 3), (1, 2)]),
        (attend_by_loops, [(2, 2), (1, 1), (1, 1)]),
        (multi_scale_deformable_attn_pytorch, [(9, 14), (5, 7), (3, 4)]),
    ],
    ids=["loops", "one-pixel", "mmcv"],
)
@torch.no_grad()
def test_it_is_the_reference(attend, sizes):
    neck = make()
    inputs = make_inputs(sizes)
    outs = neck(inputs)
    expected = hahi_neck(neck.state_dict(), inputs, heads=2, points=3, attend=attend)
    assert [tuple(out.shape) for out in outs] == [tuple(x.shape) for x in inputs]
    for out, reference in zip(outs, expected, strict=True):
        assert reference.std() > 0.1
        assert_close(out, reference)


@torch.no_grad()
def test_the_first_channels_of_a_fusion():
    """In a checkpoint: of the stem what it attended to, of the others their own maps."""
    neck = make()
    neck.conv_fusion.conv.weight[:, 8:] = 0
    neck.trans_fusion[0].conv.weight[:, 6:] = 0
    neck.trans_fusion[1].conv.weight[:, 8:] = 0
    attended = torch.randn(2, 8, 3, 5)
    neck.interact = lambda stem, tokens, levels: attended
    inputs = make_inputs([(3, 5), (2, 3), (1, 2)])
    stem, *others = neck(inputs)
    assert stem.std() > 0.1

    inputs[0] += 1
    assert torch.equal(neck(inputs)[0], stem), "the stem's own map does not count"
    attended += 1
    assert not torch.equal(neck(inputs)[0], stem)
    neck.aggregate = lambda levels: torch.randn(2, 8, 8)
    for out, other in zip(neck(inputs)[1:], others, strict=True):
        assert torch.equal(out, other), "tokens do not count"


def test_positions_are_detrs():
    encoding = pytest.importorskip(
        "mmdet.models.layers", reason="needs mmdet: bash tools/setup_env.sh installs it"
    ).SinePositionalEncoding(num_feats=128)
    expected = encoding(torch.zeros(1, 7, 11, dtype=torch.bool))[0].flatten(1).T
    assert_close(encode_positions(7, 11, 256, "cpu"), expected)


def test_centers_are_shares_of_width_and_height():
    expected = [[1 / 6, 1 / 4], [1 / 2, 1 / 4], [5 / 6, 1 / 4]]
    expected += [[x, 3 / 4] for x, _ in expected]
    assert_close(pixel_centers(2, 3, "cpu"), torch.tensor(expected))


def test_initialization():
    """As documented: Xavier's bounds, and heads that look into different directions."""
    neck = randomize(HAHINeck([64, 96, 192, 384, 768]), 7.0)
    for _ in range(2):
        neck.init_weights()
        weight = neck.trans_fusion[3].conv.weight
        bound = (6 / (9 * (768 + 256) + 9 * 768)) ** 0.5
        assert 0.99 * bound < weight.abs().max() <= bound
        assert 0.9 < neck.level_embed.std() < 1.1
        assert not neck.reference_points.bias.any()
        for attention in (neck.self_attn, neck.multi_att):
            assert not attention.attention_weights.weight.any()
            assert not attention.sampling_offsets.weight.any()
            directions = attention.sampling_offsets.bias.view(8, 4, 8, 2)
            # Head 0 looks to the right, head 2 down; point n at a distance of n pixels.
            assert_close(directions[0, :, 2], torch.tensor([[3.0, 0.0]] * 4))
            assert_close(directions[2, :, 7], torch.tensor([[0.0, 8.0]] * 4))
            bound = (6 / 512) ** 0.5
            assert 0.99 * bound < attention.value_proj.weight.abs().max() <= bound


def test_dropout_is_the_attentions():
    neck = make(dropout=0.9)
    inputs = make_inputs([(6, 8), (3, 4), (2, 2)])
    expected = neck(inputs)
    neck.self_attn.train()
    neck.multi_att.train()
    assert all(
        not torch.equal(out, other) for out, other in zip(neck(inputs), expected, strict=True)
    )
    assert HAHINeck(IN_CHANNELS, **SMALL).self_attn.dropout.p == 0.1


def test_a_gradient_reaches_every_parameter():
    neck = make().train()
    sum(out.square().sum() for out in neck(make_inputs([(6, 8), (3, 4), (2, 2)]))).backward()
    for name, parameter in neck.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@torch.no_grad()
def test_attention_computes_in_float32_under_autocast():
    neck = make()
    inputs = make_inputs([(40, 60), (20, 30), (10, 15)])
    expected = neck(inputs)
    seen = []
    neck.self_attn.value_proj.register_forward_hook(lambda _, args, out: seen.append(out.dtype))
    neck.reference_points.register_forward_hook(lambda _, args, out: seen.append(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outs = neck(inputs)
    assert seen == [torch.float32] * 2
    for out, reference in zip(outs, expected, strict=True):
        assert (out.float() - reference).std() < 0.05 * reference.std()


@torch.no_grad()
def test_a_double_neck_computes_in_float64():
    neck = make()
    inputs = make_inputs([(3, 5), (2, 3), (1, 2)])
    expected = neck(inputs)
    for out, reference in zip(neck.double()([x.double() for x in inputs]), expected, strict=True):
        assert out.dtype == torch.float64
        assert_close(out, reference, torch.float32)


class Model(nn.Module):
    def __init__(self, neck: nn.Module) -> None:
        super().__init__()
        self.neck = neck


@pytest.mark.parametrize("load", LOADERS)
def test_lists_of_one_module_load(load, tmp_path):
    saved = Model(make()).state_dict()
    renamed = {
        key.replace("conv_proj.", "conv_proj.0.").replace("conv_fusion.", "conv_fusion.0."): value
        for key, value in saved.items()
    }
    assert len(renamed.keys() - saved.keys()) == 12
    built = Model(HAHINeck(IN_CHANNELS, **SMALL))
    load(built, renamed, tmp_path)
    for name, value in built.state_dict().items():
        assert torch.equal(value, saved[name]), name


def test_user_errors():
    with pytest.raises(ValueError, match=r"stem's channels and .* at least one map.*got \[64\]"):
        HAHINeck([64])
    with pytest.raises(ValueError, match=r"multiple of 4 and of num_heads.*embed_dims=8.*heads=3"):
        make(num_heads=3)
    with pytest.raises(ValueError, match=r"embed_dims=6 and num_heads=2"):
        make(embed_dims=6)
    with pytest.raises(ValueError, match=r"num_points must be an integer >= 1, got 0"):
        make(num_points=0)
    with pytest.raises(TypeError, match=r"in_channels must be an integer >= 1, got '64'"):
        make(["64", 96])
    with pytest.raises(ValueError, match=r"HAHINeck takes .*in_channels=\[4, 6, 8\], got .*\[4, 6"):
        make()(make_inputs([(3, 5), (2, 3)], [4, 6]))
