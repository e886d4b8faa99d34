"""What is found in a model, and how it is told."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdysample import find_upsampling, swap_upsampling


class Strided(nn.Module):
    """Convolutions of stride 2, or pooling that rounds down, and one call that undoes all."""

    def __init__(self, levels: int, round_up: bool) -> None:
        super().__init__()
        down = nn.AvgPool2d(2, ceil_mode=round_up)
        self.down = nn.Sequential(*[down] * levels)
        self.last = nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(F.interpolate(self.down(images), size=images.shape[2:]))


@pytest.mark.parametrize("round_up", [True, False])
@pytest.mark.parametrize("size", [(32, 64), (33, 47), (100, 75), (200, 200)])
def test_ratios_of_odd_sizes(size, round_up):
    for levels in (1, 2, 3, 4, 5):
        (site,) = find_upsampling(Strided(levels, round_up), torch.rand(1, 3, *size))
        assert (site.name, site.channels, site.scale_factor) == ("upsampling.0", 3, 2**levels)


@pytest.mark.parametrize("ratio", [3, 5, 6])
def test_other_ratios(ratio):
    model = nn.Sequential(nn.Upsample(scale_factor=ratio), nn.ReLU())
    (site,) = find_upsampling(model, torch.rand(1, 3, 8, 8))
    assert (site.name, site.scale_factor) == ("0", ratio)


@pytest.mark.parametrize(
    "last",
    [
        lambda x: x,
        torch.sigmoid,
        nn.Softmax(dim=1),
        lambda x: {"out": [x[:, 0]]},
        lambda x: x.argmax(dim=1),
        lambda x: x.clamp(0, 1).permute(0, 2, 3, 1).to(torch.float64).float(),
    ],
)
def test_an_output_may_be_turned_into_probabilities(last):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 2, stride=2)

        def forward(self, images: Tensor) -> Tensor | dict:
            return last(F.interpolate(self.conv(images), scale_factor=2))

    (site,) = find_upsampling(Model(), torch.rand(1, 3, 16, 16))
    assert site.is_output


def test_a_model_of_one_size(caplog):
    """As vision transformers are: the second dry run fails."""

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Upsample(scale_factor=2)
            self.position = nn.Parameter(torch.zeros(1, 4, 16, 16))

        def forward(self, images: Tensor) -> Tensor:
            return self.up(images + self.position).relu()

    example = torch.rand(1, 4, 16, 16)
    with caplog.at_level(logging.WARNING, "mmdysample"):
        model = swap_upsampling(Fixed(), dict(type="DySample"), example)
    assert (
        "ratios are those with images of one size, as model(images) failed with images of (1, "
        "4, 80, 80)" in caplog.text
    )
    assert torch.equal(model(example), model.up(example + model.position).relu())


def test_a_module_that_gives_no_multiple_keeps_its_sizes():
    """29 -> 57 is about twice as large, and what runs next expects 57."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Upsample(scale_factor=1.99)

        def forward(self, images: Tensor) -> Tensor:
            return self.up(images) * 2

    example = torch.rand(1, 4, 29, 29)
    model = Model()
    assert F.interpolate(example, scale_factor=1.99).shape[2] == 57
    (site,) = find_upsampling(model, example)
    assert (site.name, site.scale_factor) == ("up.upsampling.0", 2)
    swap_upsampling(model, dict(type="CARAFE"), example)
    wanted = model.up.upsampling["0"](example)[:, :, :57, :57] * 2
    torch.testing.assert_close(model(example), wanted)


def test_an_output_that_holds_itself():
    class Holding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 2, stride=2)
            self.head = nn.Conv2d(8, 2, 1)

        def forward(self, images: Tensor) -> dict:
            output = dict(logits=self.head(F.interpolate(self.conv(images), scale_factor=2)))
            return dict(output, all=[output, output]) | dict(itself=output.setdefault("o", output))

    (site,) = find_upsampling(Holding(), torch.zeros(1, 3, 32, 32))
    assert (site.name, site.channels, site.why_kept) == ("upsampling.0", 8, None)


def test_an_example_without_values():
    model = nn.Sequential(nn.Conv2d(3, 8, 2), nn.Upsample(scale_factor=2), nn.Conv2d(8, 2, 1))
    example = torch.zeros(1, 3, 32, 32, device="meta")
    with pytest.raises(ValueError, match="example has no values"):
        find_upsampling(model, example)
    assert len(find_upsampling(model.to("meta"), example)) == 1
