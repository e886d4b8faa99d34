"""`swap_upsampling`: what a swapped model computes, and what can be done with it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mmdysample
from mmdysample import find_upsampling, swap_upsampling


class Pyramid(nn.Module):
    """Calls `F.interpolate` in its forward, as the necks of detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, 16, 1) for c in (8, 16, 32))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for i in (2, 1):
            size = maps[i - 1].shape[2:]
            maps[i - 1] = maps[i - 1] + F.interpolate(maps[i], size=size, mode="nearest")
        return maps


class Model(nn.Module):
    """Two calls in the neck, a module, and logits that are resized to the image."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Conv2d(*channels, 3, stride=2, padding=1) for channels in ((3, 8), (8, 16), (16, 32))
        )
        self.neck = Pyramid()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.norm = nn.BatchNorm2d(24)
        self.head = nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        finest, second, _ = self.neck(maps[1:])
        y = torch.cat([self.up(second), maps[1]], dim=1) + finest.mean()
        return F.interpolate(self.head(self.norm(y)), size=x.shape[2:], mode="bilinear")


@pytest.fixture
def model() -> Model:
    return Model().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 32, 48)


def test_sites(model, images):
    sites = find_upsampling(model, images)
    assert [(s.name, s.channels, s.scale_factor, s.mode, s.guide) for s in sites] == [
        ("neck.upsampling.0", 16, 2, "nearest", "neck.laterals.1"),
        ("neck.upsampling.1", 16, 2, "nearest", "neck.laterals.0"),
        ("up", 16, 2, "bilinear", "stages.0"),
        ("upsampling.0", 4, 2, "bilinear", None),
    ]
    assert [site.is_output for site in sites] == [False, False, False, True]
    assert "upsampling.0       4         x2     bilinear  -" in str(sites)


def expected(model: Model, images: Tensor, guided: bool) -> Tensor:
    """What a swapped model computes, with its upsamplers called one by one."""

    def up(upsampler: nn.Module, x: Tensor, guide: Tensor) -> Tensor:
        # `forward`, which no hook of a call meets
        return upsampler.forward(x, guide=guide) if guided else upsampler(x)

    maps = [images]
    for stage in model.stages:
        maps.append(stage(maps[-1]))
    one, two, three = (conv(x) for conv, x in zip(model.neck.laterals, maps[1:], strict=True))
    two = two + up(model.neck.upsampling["0"], three, two)
    one = one + up(model.neck.upsampling["1"], two, one)
    y = torch.cat([up(model.up, two, maps[1]), maps[1]], dim=1) + one.mean()
    return F.interpolate(model.head(model.norm(y)), size=images.shape[2:], mode="bilinear")


@pytest.mark.parametrize("kind", ["DySample", "FADE"])
def test_a_swapped_model_computes_with_its_upsamplers(model, images, kind):
    plain = copy.deepcopy(model)
    assert swap_upsampling(model, dict(type=kind), images) is model
    torch.testing.assert_close(model(images), expected(model, images, guided=kind == "FADE"))
    assert not torch.allclose(model(images), plain(images))
    assert plain.load_state_dict(model.state_dict(), strict=False).missing_keys == []
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other) is type(model)
        assert torch.equal(other(images), model(images))


def test_what_was_hung_on_a_module_does_not_hide_what_an_upsampler_has(images):
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.upsample = lambda x, *_: F.interpolate(x, scale_factor=2)
            self.guided, self.scale_factor, self.i = True, 2.0, 5

        def forward(self, x: Tensor) -> Tensor:
            return self.upsample(x)

    model = nn.Sequential(nn.Conv2d(3, 8, 1), Up(), nn.Conv2d(8, 2, 1))
    swap_upsampling(model, dict(type="CARAFE"), images)
    conv, up, last = model
    assert (up.i, up.scale_factor, up.guided) == (5, 2, False)
    torch.testing.assert_close(model(images), last(type(up).upsample(up, conv(images), None, ())))


def test_a_module_with_two_parents_is_replaced_in_both(images):
    up = nn.Upsample(scale_factor=2)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), up, nn.Sequential(nn.ReLU(), up, nn.ReLU()))
    swap_upsampling(model, dict(type="DySample"), images)
    assert type(model[1]).__name__ == "DySample"
    assert model[2][1] is model[1]
    assert copy.deepcopy(model)(images).shape == (2, 8, 128, 192)


def test_torch_alone_has_it():
    assert {"find_upsampling", "swap_upsampling"} <= set(mmdysample.__all__)
