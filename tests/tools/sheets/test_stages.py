"""What is recorded of a model's upsamplers while it predicts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmdysample import SAPA, Bilinear, DySample, Upsampler
from mmdysample.errors import UserError
from mmdysample.mmseg.segnet.max_unpool import MaxUnpool
from tools.analysis.sheets.stages import choose_stage, pixels_per_cell, run_stages


class Model(nn.Module):
    """Two stages, as hosts call them, on what an image is resized to."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.data_preprocessor = Pad()
        self.coarse = DySample(4)
        self.fine = SAPA(4)
        self.idle = Bilinear(4)
        self.times = times

    def test_step(self, data: dict) -> list[str]:
        image = self.data_preprocessor(data)["inputs"].double().mean(dim=1, keepdim=True)
        x = image.expand(-1, 4, -1, -1)
        levels = [nn.functional.avg_pool2d(x, size) for size in (8, 4, 2)]
        for _ in range(self.times):
            y = self.coarse(levels[0], levels[1])
            self.fine(y, guide=levels[2])
        return ["a data sample"]


class Pad(nn.Module):
    def forward(self, data: dict) -> dict:
        return dict(inputs=nn.functional.pad(torch.stack(data["inputs"]), (0, 8, 0, 4)))


@pytest.fixture
def data() -> dict:
    inputs = torch.randint(0, 256, (3, 28, 40), dtype=torch.uint8)
    return dict(inputs=inputs, data_samples="a data sample")


def test_inputs_and_results_are_recorded_in_the_order_of_running(data):
    model = Model().double().eval()
    run = run_stages(model, data)
    assert [stage.name for stage in run.stages] == ["coarse", "fine"]
    assert run.padded == (32, 48)
    blue_green_red = data["inputs"].permute(1, 2, 0).numpy()
    assert (run.image == blue_green_red[:, :, ::-1]).all()
    coarse, fine = run.stages
    assert coarse.size == (4, 6) and fine.size == (8, 12)
    assert torch.equal(fine.x, coarse.out)
    assert torch.equal(fine.out, model.fine(coarse.out, fine.guide))
    assert coarse.guide.shape == (1, 4, 8, 12) and fine.guide.shape == (1, 4, 16, 24)
    assert not fine.out.requires_grad
    assert not any(module._forward_hooks for module in model.modules())


class Host(Model):
    """A host as SegNet's, whose upsampling is no `Upsampler`."""

    def __init__(self) -> None:
        super().__init__()
        self.upsample_modules = nn.ModuleList([MaxUnpool()])
        self.coarse = self.fine = self.idle = None

    def test_step(self, data: dict) -> list[str]:
        y = self.data_preprocessor(data)["inputs"].double()
        self.upsample_modules[0](nn.functional.max_pool2d(y, 2), guide=y)
        return ["a data sample"]


def test_what_a_host_has_in_an_upsamplers_place_is_recorded(data):
    (stage,) = run_stages(Host(), data).stages
    assert stage.name == "upsample_modules.0" and stage.out.shape == stage.guide.shape
    with pytest.raises(UserError, match="has no DySample upsampler"):
        run_stages(Host(), data, DySample)


def test_one_kind_of_upsampler_alone(data):
    assert [s.name for s in run_stages(Model().double().eval(), data, DySample).stages] == [
        "coarse"
    ]


@pytest.mark.parametrize(
    ("model", "kind", "says"),
    [
        (Model(times=2), Upsampler, "stage coarse of X runs more than once for an image"),
        (Model(times=0), Upsampler, "X runs none of its upsamplers"),
        (nn.Identity(), Upsampler, "X has no upsampler of mmdysample, so there is nothing"),
        (nn.Identity(), DySample, "X has no DySample upsampler"),
    ],
)
def test_what_cannot_be_recorded(model, kind, says, data):
    with pytest.raises(UserError, match=says):
        run_stages(model.double().eval(), data, kind, of="X")


def test_the_finest_stage_is_the_default(data):
    stages = run_stages(Model().double().eval(), data).stages
    assert choose_stage(stages, None).name == "fine"
    assert choose_stage([*stages, stages[1]._replace(name="last")], None).name == "last"
    assert choose_stage(stages, "coarse").name == "coarse"
    with pytest.raises(UserError, match="--stage idle: the model has no such stage; it has coarse"):
        choose_stage(stages, "idle")


@pytest.mark.parametrize(
    ("image", "feature", "stride"),
    [
        ((160, 160), (20, 20), 8),
        ((23, 23), (12, 12), 2),
        ((64, 33), (2, 2), 32),
        ((9, 9), (9, 9), 1),
    ],
)
def test_pixels_per_cell_of_backbones_that_round_up(image, feature, stride):
    assert pixels_per_cell(image, feature) == stride
