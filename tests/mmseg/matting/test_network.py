"""Encoder and decoder of the matting network against their second implementation."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmseg.models import ResNet

from mmdysample.mmseg.matting import MattingHead, MattingResNet
from tests.host_contract import Recorder
from tests.loaders import LENIENT
from tests.mmseg.matting.models import make_batch, make_model, make_random
from tests.reference.matting_network import matting_network
from tests.utils import assert_close, randomize

BLOCKS = {18: [2, 2, 2], 34: [3, 4, 4]}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    ("depth", "size"), [(34, (64, 96)), (18, (67, 45))], ids=["34-even", "18-odd"]
)
def test_equals_its_second_implementation(depth, size, training):
    """Values, and the gradient of every weight."""
    model = make_random(depth=depth).double().train(training)
    image = torch.randn(2, 4, *size, dtype=torch.float64)
    state = {
        name: value.detach().clone().requires_grad_(value.is_floating_point())
        for name, value in model.state_dict().items()
    }
    expected = matting_network(state, image, BLOCKS[depth], training)
    out = model(image)
    assert out.shape == (2, 1, *size)
    assert_close(out, expected)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, state[name].grad)


def test_the_published_number_of_parameters():
    """SAPA, Table 5: 8.05M; the parts as their layers add up."""
    with torch.device("meta"):
        encoder, head = MattingResNet(34), MattingHead()
    assert count(encoder) == 5_812_096
    assert count(head.aspp) == 666_880
    assert count(head.stages) == 1_160_896
    assert count(head.shorts) == 408_832
    assert count(head.prediction) == 299
    assert count(encoder) + count(head) == 8_049_003


def test_each_stage_has_its_input_and_its_guide():
    model = make_model(dict(type=Recorder)).eval()
    maps = model.extract_feat(torch.randn(1, 4, 32, 48))
    model.decode_head(maps)
    shapes = [
        ((32, 2, 3), (32, 4, 6)),
        ((16, 4, 6), (16, 8, 12)),
        ((8, 8, 12), (8, 16, 24)),
        ((8, 16, 24), (8, 32, 48)),
    ]
    guides = [maps.inner_layer3, maps.inner_layer2, maps.pooled_stem, maps.stem]
    for stage, guide, expected in zip(
        model.decode_head.upsample_modules, guides, shapes, strict=True
    ):
        assert (stage.x.shape[1:], stage.guide.shape[1:]) == expected
        assert torch.equal(stage.guide, guide)
    # those before the poolings: their maxima of 2x2 pixels are what the next convolution takes
    assert maps.inner_layer2.shape[2:] == maps.layer1.shape[2:]
    assert maps.inner_layer3.shape[2:] == maps.layer2.shape[2:]


@pytest.mark.parametrize("kind", ["DySample", "SAPA", "FADE", "CARAFE", "A2U", "IndexNet"])
def test_a_gradient_reaches_every_upsampler(kind):
    model = make_model(dict(type=kind), base_channels=32)
    model.init_weights()
    data = model.data_preprocessor(make_batch((41, 37), (41, 37)), training=True)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    loss.backward()
    for n in range(4):
        weights = [p for p in model.decode_head.upsample_modules[n].parameters() if p.dim() > 1]
        assert weights
        for weight in weights:
            assert torch.isfinite(weight.grad).all() and weight.grad.any()


@pytest.mark.parametrize("size", [(1, 1), (9, 9), (17, 34)], ids=str)
@pytest.mark.parametrize("kind", ["Bilinear", "SAPA"])
def test_any_size_is_kept(kind, size):
    model = make_random(upsample_cfg=dict(type=kind)).train()
    out = model(torch.randn(2, 4, *size))
    assert out.shape == (2, 1, *size) and torch.isfinite(out).all()


def test_initialization():
    """Encoder: Kaiming; decoder: Glorot with the LeakyReLU's gain; upsamplers: their own."""
    model = randomize(make_model(dict(type="DySample", dyscope=True), base_channels=32), 77.0)
    model.init_weights()
    gain = 2 / (1 + 0.01**2)  # squared
    conv = model.backbone.layer3[1].conv1.weight  # 128 channels to 128
    assert conv.var().item() == pytest.approx(gain / (128 * 9), rel=0.05)
    for conv in (
        model.decode_head.stages[0][0].conv1,  # 128 to 64
        model.decode_head.shorts[0].conv,  # 64 to 128
    ):
        expected = gain * 2 / ((64 + 128) * 9)
        assert conv.weight.var().item() == pytest.approx(expected, rel=0.05)
    fusion = model.decode_head.aspp.fusion.conv.weight  # 640 to 128
    assert fusion.var().item() == pytest.approx(gain * 2 / 768, rel=0.05)
    for stage in model.decode_head.upsample_modules:
        assert 0.0008 < stage.offset.weight.std() < 0.0012
        assert not stage.offset.bias.any() and not stage.scope.weight.any()


@pytest.mark.parametrize("load", LENIENT)
def test_takes_the_weights_of_a_resnet34(load, tmp_path):
    """mmseg's has torchvision's names and shapes; of its layers 3 and 4 a part is not needed."""
    resnet = randomize(ResNet(34))
    state = resnet.state_dict()
    encoder = MattingResNet(34)
    load(encoder, state, tmp_path)
    own = encoder.state_dict()
    assert {name for name in state if name not in own} == {
        name for name in state if name.startswith(("layer3.4.", "layer3.5.", "layer4."))
    }
    for name, value in own.items():
        if name == "conv1.weight":
            assert torch.equal(value[:, :3], state[name]) and not value[:, 3].any()
        else:
            assert torch.equal(value, state[name]), name


def test_pretrained_weights_are_not_drawn_again(tmp_path):
    path = tmp_path / "resnet34.pth"
    torch.save(randomize(ResNet(34)).state_dict(), path)
    encoder = MattingResNet(34, init_cfg=dict(type="Pretrained", checkpoint=str(path)))
    encoder.init_weights()
    expected = torch.load(path)
    assert torch.equal(encoder.conv1.weight[:, :3], expected["conv1.weight"])
    assert torch.equal(encoder.layer3[3].conv2.weight, expected["layer3.3.conv2.weight"])


def test_its_own_weights_load():
    encoder, other = MattingResNet(18, base_channels=8), MattingResNet(18, base_channels=8)
    randomize(encoder)
    other.load_state_dict(encoder.state_dict(), strict=True)
    assert torch.equal(encoder.conv1.weight, other.conv1.weight)


def test_a_copy_stands_for_itself():
    model = make_random(upsample_cfg=dict(type="DySample"), base_channels=16).eval()
    image = torch.randn(1, 4, 33, 32)
    expected = model(image)
    copied = copy.deepcopy(model)
    randomize(model, 3.0)
    assert torch.equal(copied(image), expected)


@pytest.mark.parametrize("kind", ["DySample", "SAPA"])
def test_autocast(kind):
    """Losses are float32 and finite, and as they are without."""
    model = make_model(dict(type=kind), base_channels=16)
    model.init_weights()
    model.eval()
    data = model.data_preprocessor(make_batch((48, 32), (48, 32)), training=True)
    expected = model(**data, mode="loss")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(data["inputs"]).dtype == torch.bfloat16
        losses = model(**data, mode="loss")
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected[name].item(), rel=0.05)


def test_dropout_is_before_the_decoder():
    head = MattingHead(base_channels=8, norm_cfg=dict(type="GN", num_groups=1)).train()
    x = torch.randn(1, 32, 4, 4)
    out = head.aspp(x)
    share = (out == 0).float().mean()
    assert 0.4 < share < 0.6
    assert not torch.equal(out, head.aspp(x))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MattingResNet(50), "depth of MattingResNet must be 18 or 34, got 50"),
        (lambda: MattingResNet(base_channels=0), "base_channels must be an integer >= 1, got 0"),
        (lambda: MattingHead(base_channels=7), "base_channels of MattingHead must be even, got 7"),
        (lambda: MattingHead(dilations=(6, 12)), r"must begin with the 1 .* got \(6, 12\)"),
        (lambda: MattingHead(dilations=()), r"must begin with the 1 .* got \(\)"),
        (
            lambda: MattingHead()(MattingResNet(18, 4, 8)(torch.zeros(2, 4, 16, 16))),
            r"MattingHead takes feature maps of in_channels=\[4, 64, .* got maps of .*\[4, 8, ",
        ),
        (
            lambda: MattingResNet(18, 3)(torch.zeros(1, 4, 16, 16)),
            r"MattingResNet takes feature maps of in_channels=\[3\], got maps of \[4\] channels",
        ),
        (
            lambda: make_model().train()(torch.zeros(1, 4, 32, 32)),
            "batch_size of 2 or more in each process",
        ),
    ],
)
def test_user_errors(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_prediction_does_not_start_where_its_gradient_vanishes():
    """Below 0 the last LeakyReLU leaves a hundredth of it, and trainings stayed there."""
    for seed in range(20):
        torch.manual_seed(seed)
        head = MattingHead(base_channels=16)
        head.init_weights()
        before, last = head.prediction
        x = before.activate(torch.randn(4, 1, 9, 9))
        assert last(x).mean() > 0, seed
