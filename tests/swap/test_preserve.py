"""``preserve=True``: a swapped model computes what it computed before, until it is trained."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from mmdysample import DySample, Upsampler, find_upsampling, swap_upsampling
from tests.swap.stand_ins import STAND_INS, StandIn

SWAPPABLE = [name for name, case in STAND_INS.items() if case.swappable]


def tensors(output: object) -> Iterator[Tensor]:
    """All that a model returns."""
    if isinstance(output, Tensor):
        yield output
        return
    assert isinstance(output, Mapping | Sequence)
    for value in output.values() if isinstance(output, Mapping) else output:
        yield from tensors(value)


def run(model: nn.Module, images: Tensor) -> list[Tensor]:
    return [*tensors(model(images))]


def model_and_images(case: StandIn) -> tuple[nn.Module, Tensor]:
    """With statistics of normalization that are not the first ones."""
    model, images = case.build(), case.example()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(images.shape, generator=generator))
    return model.eval(), images


def upsamplers(model: nn.Module) -> dict[str, Upsampler]:
    return {n: module for n, module in model.named_modules() if isinstance(module, Upsampler)}


def assert_same(case: StandIn, actual: list[Tensor], expected: list[Tensor]) -> None:
    exact = {site.mode for site in case.swappable} == {"nearest"}
    for one, other in zip(actual, expected, strict=True):
        if exact:
            assert torch.equal(one, other)
        else:
            assert one.shape == other.shape
            assert (one - other).abs().max() <= 1e-5 * (other.max() - other.min())


@pytest.mark.parametrize("name", SWAPPABLE)
def test_nothing_changes_until_a_step_of_training_changes_every_weight(name):
    case = STAND_INS[name]
    model, images = model_and_images(case)
    plain = copy.deepcopy(model)
    swap_upsampling(model, dict(type="DySample"), images, preserve=True)
    ups = upsamplers(model)
    assert sorted(ups) == sorted(site.name for site in case.swappable)
    assert not any(module.training for module in model.modules())
    for site in case.swappable:
        assert ups[site.name].initial_position == site.mode
    with torch.no_grad():
        assert_same(case, run(model, images), run(plain, images))
        model.train(), plain.train()
        assert_same(case, run(model, images), run(plain, images))

    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sum((out * torch.randn_like(out)).sum() for out in run(model, images)).backward()
    optimizer.step()
    for site, up in ups.items():
        for key, parameter in up.named_parameters():
            assert not torch.equal(parameter, before[f"{site}.{key}"]), f"{site}.{key}"


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_pyramid_of_odd_maps(memory_format):
    """35x45 from 18x23 from 9x12: one row and one column less than twice the size."""
    model, images = model_and_images(STAND_INS["FPN"])
    images = torch.randn(1, 3, 70, 90).contiguous(memory_format=memory_format)
    model = model.to(memory_format=memory_format)
    expected = run(model, images)
    swap_upsampling(model, dict(type="DySample", groups=1), images, preserve=True)
    exact = memory_format is torch.channels_last  # else up to the rounding of grid_sample
    for actual, value in zip(run(model, images), expected, strict=True):
        tolerance = 0 if exact else 1e-5 * (value.max() - value.min())
        assert (actual - value).abs().max() <= tolerance


@pytest.mark.parametrize("name", ["YOLO", "FPN"])
@pytest.mark.parametrize("kind", ["CARAFE", "Deconv", "PixelShuffle", "Nearest"])
def test_other_upsamplers_start_as_nearest(name, kind):
    model, images = model_and_images(STAND_INS[name])
    expected = run(model, images)
    swap_upsampling(model, dict(type=kind), images, preserve=True)
    for actual, value in zip(run(model, images), expected, strict=True):
        # convolutions between two sites may enlarge a difference of 1e-5
        tolerance = 1e-4 if kind == "CARAFE" else 1e-6
        assert (actual - value).abs().max() <= tolerance * (value.max() - value.min())


def test_the_mode_of_each_site_is_asked_for():
    """A class that can start as the one interpolation need not as the other."""
    model, images = model_and_images(STAND_INS["InterpolateModules"])
    expected = run(model, images)
    able = {"nearest": dict(type="PixelShuffle"), "bilinear": dict(type="Bilinear")}
    swap_upsampling(model, lambda site: able[site.mode], images, preserve=True)
    torch.testing.assert_close(run(model, images), expected)


@pytest.mark.parametrize(
    ("name", "cfg", "message"),
    [
        (
            "InterpolateModules",
            dict(type="CARAFE"),
            r"^protonet\.1 \(8 channels, x2\): CARAFE cannot start as 'bilinear' interpolation; "
            "Bilinear, DySample can; upsample_cfg may be a function of the site$",
        ),
        (
            "FPN",
            dict(type="FADE"),
            r"^neck\.upsampling\.0 .*: FADE cannot start as 'nearest' interpolation; CARAFE, "
            "Deconv, DySample, Nearest, PixelShuffle can;",
        ),
        (
            "FPN",
            dict(type="DySample", initial_std=0.001),
            "upsample_cfg sets initial_std=0.001, but preserve=True needs 0.0;",
        ),
    ],
    ids=["mode", "class", "setting"],
)
def test_what_cannot_preserve_is_refused_and_nothing_is_swapped(name, cfg, message):
    model, images = model_and_images(STAND_INS[name])
    before = [*model.state_dict()]
    with pytest.raises(ValueError, match=message):
        swap_upsampling(model, cfg, images, preserve=True)
    assert [*model.state_dict()] == before and len(find_upsampling(model, images)) > 0


class Initialized(nn.Module):
    """Initializes all of its layers by their classes, as mmengine's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = STAND_INS["YOLO"].build()

    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize("inside_another", [False, True])
def test_the_start_outlasts_the_models_own_initialization(inside_another):
    initialized, images = Initialized(), STAND_INS["YOLO"].example()
    model = nn.Sequential(initialized).eval() if inside_another else initialized.eval()
    plain = copy.deepcopy(model)
    swap_upsampling(model, dict(type="DySample"), images, preserve=True)
    initialized.init_weights()
    own = {key: value for key, value in model.state_dict().items() if key in plain.state_dict()}
    plain.load_state_dict(own)
    assert torch.equal(model(images), plain(images))
    assert all(isinstance(up, DySample) for up in upsamplers(model).values())


def test_a_model_that_is_initialized_already_keeps_its_upsamplers():
    """mmengine's `init_weights` does nothing when it is called once more."""

    class Once(Initialized):
        is_init = False

        def init_weights(self) -> None:
            if not self.is_init:
                super().init_weights()
            self.is_init = True

    model = swap_upsampling(Once(), dict(type="DySample"), STAND_INS["YOLO"].example())
    start = copy.deepcopy(model.state_dict())
    model.init_weights()
    first = copy.deepcopy(model.state_dict())
    model.init_weights()
    for key, value in model.state_dict().items():
        assert torch.equal(value, first[key])
    assert not all(torch.equal(first[key], start[key]) for key in first if "offset.weight" in key)
