"""The matting model in its three modes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.optim import OptimWrapper

from mmdysample.errors import InvalidValue
from tests.mmseg.matting.models import make_batch, make_model, make_random
from tests.mmseg.matting.test_losses import by_loops


class Ramp(nn.Module):
    """Predicts -0.5 to 1.5 along the rows, whatever it is given."""

    def forward(self, x):
        width = x.shape[3]
        return torch.linspace(-0.5, 1.5, width).expand(len(x), 1, x.shape[2], width)


def test_prediction_is_clamped_truncated_cropped_and_known_where_the_trimap_is():
    model = make_model().eval()
    model.decode_head.prediction = Ramp()
    batch = make_batch((20, 40))
    trimap = batch["data_samples"][0].trimap.data.clone()
    with torch.no_grad():
        (sample,) = model.test_step(batch)
    matte = sample.pred_alpha.data
    assert matte.shape == (1, 20, 40) and matte.dtype == torch.uint8
    seen = set()
    for y in range(20):
        for x in range(40):
            known = trimap[0, y, x].item()
            # 40 columns are padded to 48; the ramp is 2/47 a column
            alpha = min(max(-0.5 + 2 * x / 47, 0.0), 1.0)
            expected = int(255 * alpha) if known == 128 else known
            assert abs(matte[0, y, x].item() - expected) <= (expected not in (0, 255)) * 1e-9
            seen.add(expected)
    assert len(seen) > 20


class NotANumberAt(nn.Module):
    """Predicts 0.5, and nan in one column of the second image."""

    def __init__(self, column: int) -> None:
        super().__init__()
        self.column = column

    def forward(self, x):
        alpha = torch.full((len(x), 1, *x.shape[2:]), 0.5)
        alpha[1, :, :, self.column] = math.nan
        return alpha


def test_what_is_not_a_number_is_no_alpha():
    """Of the image; 40 columns are padded to 48, and what is there is cut off."""
    model = make_model().eval()
    batch = make_batch((20, 40), (20, 40))
    batch["data_samples"][1].set_metainfo(dict(img_path="second.png"))
    model.decode_head.prediction = NotANumberAt(39)
    with torch.no_grad(), pytest.raises(InvalidValue, match=r"of second\.png is not a number"):
        model.test_step(batch)
    model.decode_head.prediction = NotANumberAt(40)
    with torch.no_grad():
        assert len(model.test_step(batch)) == 2


def test_images_of_a_batch_keep_their_places():
    model = make_random().eval()
    batch = make_batch((32, 48), (32, 48))
    with torch.no_grad():
        together = model.test_step(batch)
        for n in range(2):
            alone = dict(inputs=[batch["inputs"][n]], data_samples=[batch["data_samples"][n]])
            (sample,) = model.test_step(alone)
            difference = sample.pred_alpha.data.int() - together[n].pred_alpha.data.int()
            assert difference.abs().max() <= 1  # where rounding crosses a multiple of 1/255
    assert not torch.equal(together[0].pred_alpha.data, together[1].pred_alpha.data)


def test_losses_are_of_the_fields_of_the_samples():
    model = make_random().eval()
    batch = make_batch((17, 23), (17, 23))
    data = model.data_preprocessor(batch, training=True)
    with torch.no_grad():
        losses = model(**data, mode="loss")
        pred = model(data["inputs"], mode="tensor")
    assert pred.shape == (2, 1, 17, 23)

    def field(name):
        return torch.stack([sample.get(name).data for sample in batch["data_samples"]])

    expected = by_loops(
        pred,
        *(field(name) / 255 for name in ("gt_alpha", "gt_fg", "gt_bg")),
        field("trimap") == 128,
    )
    for name, value in zip(("loss_alpha", "loss_composition"), expected, strict=True):
        assert losses[name].item() == pytest.approx(0.5 * value, rel=1e-4)


def test_training_lowers_the_loss_of_a_batch():
    model = make_model(dict(type="DySample"), base_channels=16)
    model.init_weights()
    optimizer = OptimWrapper(torch.optim.Adam(model.parameters(), lr=1e-3))
    batch = make_batch((32, 32), (32, 32))
    losses = [model.train_step(batch, optimizer)["loss"].item() for _ in range(15)]
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("name", ["gt_alpha", "gt_fg", "gt_bg"])
def test_a_sample_without_ground_truth(name):
    model = make_model()
    batch = make_batch((32, 32), (32, 32))
    delattr(batch["data_samples"][1], name)
    data = model.data_preprocessor(batch, training=True)
    with pytest.raises(ValueError, match=rf"sample of image\.png has no {name}: the pipeline"):
        model(**data, mode="loss")
    if name != "gt_alpha":
        model = make_model(loss_decode=dict(type="MattingLoss", composition_weight=0))
        assert model(**data, mode="loss").keys() == {"loss_alpha"}
