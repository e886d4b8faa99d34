"""Upsamplers that start as the interpolation whose place they take, and what then trains."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdysample import DySample, Upsampler, list_upsamplers
from mmdysample.registry import get_upsampler
from tests.utils import DYSAMPLE_VARIANTS, assert_close

CHANNELS = 72
ABLE = {
    "nearest": ["CARAFE", "Deconv", "DySample", "Nearest", "PixelShuffle"],
    "bilinear": ["Bilinear", "DySample"],
}
# Name of a case -> upsampler, mode, and settings that a user may add.
CASES = {f"{name}-{mode}": (name, mode, {}) for mode, names in ABLE.items() for name in names}
for variant, variants_settings in DYSAMPLE_VARIANTS.items():
    for mode in ABLE:
        CASES[f"{variant}-{mode}"] = ("DySample", mode, variants_settings)
CASES["CARAFE-groups"] = ("CARAFE", "nearest", dict(up_group=2, up_kernel=3))
CASES["CARAFE-1"] = ("CARAFE", "nearest", dict(up_kernel=1))
every_case = pytest.mark.parametrize("case", CASES)
# The first two have no parameters, and a kernel of one value is 1 whatever its logit.
UNTRAINED = ("Nearest-nearest", "Bilinear-bilinear", "CARAFE-1")
trained_cases = pytest.mark.parametrize("case", [case for case in CASES if case not in UNTRAINED])


def build(case: str, channels: int = CHANNELS, scale_factor: int = 2) -> Upsampler:
    name, mode, settings = CASES[case]
    cls = get_upsampler(name)
    return cls(channels, scale_factor, **settings, **cls.preserving(mode))


def interpolation(case: str, x: Tensor, scale_factor: int = 2) -> Tensor:
    mode = CASES[case][1]
    return F.interpolate(x, scale_factor=scale_factor, mode=mode)


def assert_same(case: str, out: Tensor, expected: Tensor, x: Tensor) -> None:
    """Bit for bit where nothing is computed; else as close as the docstrings say."""
    name, mode, settings = CASES[case]
    assert out.shape == expected.shape
    # neighbors outside the map count as zero
    largest_difference = max(x.max().item(), 0) - min(x.min().item(), 0)
    error = (out - expected).abs().max().item() / largest_difference
    if name == "CARAFE" and settings.get("up_kernel") != 1:
        assert 0 < error < 1e-5
    elif mode == "bilinear":
        assert error < 1e-6
    else:
        assert torch.equal(out, expected)


@every_case
@pytest.mark.parametrize("s", [2, 3, 4])
def test_the_result_is_the_interpolations(case, s, device):
    """Whatever the size of the features, up to the border, and of a target that is cropped."""
    channels = 8 * s * s
    up = build(case, channels, s).to(device)
    for size_of_features in (1, 1000):
        x = size_of_features * (torch.randn(2, channels, 8, 16, device=device) + 1)
        with torch.no_grad():
            out, cropped = up(x), up(x, size=(8 * s - 1, 16 * s - 1))
        expected = interpolation(case, x, s)
        assert_same(case, out, expected, x)
        if CASES[case][0] != "Bilinear":
            assert_same(case, cropped, expected[..., :-1, :-1], x)


@pytest.mark.parametrize("s", [2, 3, 4])
@pytest.mark.parametrize("less", [0, 1])
def test_nearest_at_the_size_that_a_model_asks_for(s, less, device):
    """PyTorch's own result at an odd size, whose pixels of bilinear interpolation lie elsewhere."""
    up = build("DySample-nearest", scale_factor=s).to(device)
    x = torch.randn(1, CHANNELS, 8, 16, device=device)
    size = (8 * s - less, 16 * s - less)
    with torch.no_grad():
        assert torch.equal(up(x, size=size), F.interpolate(x, size=size, mode="nearest"))


@pytest.mark.parametrize("width", [7, 20, 100, 333])
def test_dysample_at_any_width(width):
    """Exact in channels last; channels first up to the rounding of grid_sample's coordinates."""
    up = DySample(CHANNELS, **DySample.preserving("nearest"))
    x = torch.rand(1, CHANNELS, 3, width)
    expected = F.interpolate(x, scale_factor=2)
    with torch.no_grad():
        assert torch.equal(up(x.contiguous(memory_format=torch.channels_last)), expected)
        assert (up(x) - expected).abs().max() < width * 2**-23


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(case, dtype, device):
    up = build(case).to(device, dtype)
    x = torch.randn(2, CHANNELS, 8, 16).to(device, dtype)
    out = up(x)
    assert out.dtype == dtype
    assert_close(out, interpolation(case, x.float()), dtype)
    with torch.autocast(device, dtype=torch.bfloat16):
        out = up.float()(x.float())
    assert_close(out, interpolation(case, x.float()), torch.bfloat16)


def initialize_the_layers_of_a_model(up: nn.Module) -> None:
    """As mmengine's ``init_cfg`` does."""
    for module in up.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.constant_(module.bias, 0.3)


def init_layer_by_layer(up: nn.Module) -> None:
    """As FSDP does."""
    for module in up.children():
        module.reset_parameters()


@trained_cases
@pytest.mark.parametrize("initialize", [Upsampler.init_weights, init_layer_by_layer])
def test_init_weights_restores_the_start(case, initialize):
    torch.manual_seed(1)
    up = build(case)
    expected = copy.deepcopy(up.state_dict())
    initialize_the_layers_of_a_model(up)
    torch.manual_seed(1)
    initialize(up)
    for key, value in up.state_dict().items():
        assert torch.equal(value, expected[key]), key


OPTIMIZERS = {
    "SGD": lambda up: torch.optim.SGD(up.parameters(), lr=0.02, momentum=0.9),
    "AdamW": lambda up: torch.optim.AdamW(up.parameters(), lr=1e-3, weight_decay=0),
}
# Their gradient passes a product with zero, until the second step.
SECOND = {
    "DySample": {"scope.weight"},
    "CARAFE": {"channel_compressor.weight", "channel_compressor.bias"},
}


@trained_cases
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_changes_every_parameter(case, optimizer, device):
    up = build(case).to(device)
    optimize = OPTIMIZERS[optimizer](up)
    later = {name for name, _ in up.named_parameters()} & SECOND.get(CASES[case][0], set())
    for step in (1, 2):
        before = copy.deepcopy(up.state_dict())
        x = torch.randn(2, CHANNELS, 8, 16, device=device)
        (up(x) - torch.randn(2, CHANNELS, 16, 32, device=device)).square().mean().backward()
        optimize.step()
        optimize.zero_grad()
        same = {name for name, p in up.named_parameters() if torch.equal(p, before[name])}
        if step == 1:
            assert same == later
        elif not case.startswith("CARAFE") or optimizer == "AdamW":
            assert not same
        else:  # too small a step for weights of a tenth in float32: what init_weights tells
            assert same == {"channel_compressor.weight"}


def train(up: Upsampler, optimizer: str, steps: int) -> float:
    """Learn to upsample smooth maps: the last step's loss as a part of nearest interpolation's."""
    generator = torch.Generator().manual_seed(2)
    optimize = OPTIMIZERS[optimizer](up)
    for _ in range(steps):
        coarse = torch.randn(2, up.in_channels, 6, 6, generator=generator)
        target = F.interpolate(coarse, size=(24, 24), mode="bilinear")
        x = F.avg_pool2d(target, 2)
        loss = (up(x) - target).square().mean()
        optimize.zero_grad()
        loss.backward()
        optimize.step()
    return (loss / (F.interpolate(x, scale_factor=2) - target).square().mean()).item()


@pytest.mark.slow
def test_how_far_training_goes():
    """CARAFE's softmax hardly leaves one that is nearest; DySample's offsets leave zero at once."""
    moved = {}
    for optimizer in OPTIMIZERS:
        up = build("CARAFE-nearest", 16)
        before = copy.deepcopy(up.state_dict())
        assert train(up, optimizer, 100) == pytest.approx(1, abs=1e-4)
        moved[optimizer] = {
            name: (value - before[name]).abs().max().item()
            for name, value in up.state_dict().items()
        }
    assert max(moved["SGD"].values()) < 1e-6
    assert 0.02 < moved["AdamW"]["content_encoder.bias"] < 0.1
    assert train(build("CARAFE-nearest", 16), "AdamW", 300) < 0.7
    assert train(build("DySample-nearest", 16), "SGD", 100) < 0.98
    assert train(build("DySample-nearest", 16), "AdamW", 100) < 0.9


@pytest.mark.parametrize("mode", ABLE)
def test_who_cannot_start_so_says_who_can(mode):
    able = ", ".join(ABLE[mode])
    for name in list_upsamplers():
        if name not in ABLE[mode]:
            message = f"^{name} cannot start as '{mode}' interpolation; {able} can$"
            with pytest.raises(ValueError, match=message):
                get_upsampler(name).preserving(mode)
    message = "^DySample cannot start as 'bicubic' interpolation; no upsampler can$"
    with pytest.raises(ValueError, match=message):
        DySample.preserving("bicubic")


def test_the_arguments_are_the_callers_own():
    DySample.preserving("nearest")["initial_std"] = 1
    assert DySample.preserving("nearest") == dict(initial_position="nearest", initial_std=0.0)


def test_the_repr_names_what_is_not_the_default():
    assert "initial_position='nearest', initial_std=0.0\n" in repr(build("DySample-nearest"))
    assert "initial_std" not in repr(DySample(CHANNELS))
    for name in ("CARAFE", "Deconv", "PixelShuffle"):
        assert "initial_kernel='nearest'" in repr(build(f"{name}-nearest"))
        assert "initial_kernel" not in repr(get_upsampler(name)(CHANNELS))
