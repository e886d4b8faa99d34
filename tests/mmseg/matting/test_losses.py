"""The losses of image matting against loops and closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmdysample.mmseg.matting import MattingLoss
from mmdysample.mmseg.matting.losses import alpha_loss, composition_loss

SHAPE = (2, 1, 5, 7)


@pytest.fixture
def maps():
    return dict(
        pred=torch.randn(SHAPE),
        alpha=torch.rand(SHAPE),
        foreground=torch.rand(2, 3, 5, 7),
        background=torch.rand(2, 3, 5, 7),
        unknown=torch.rand(SHAPE) < 0.4,
    )


def by_loops(pred, alpha, foreground, background, unknown) -> tuple[float, float]:
    """Alpha and composition loss of images that are composed twice."""
    of_alpha = of_composition = 0.0
    for b in range(len(pred)):
        n, of_alphas, of_colors = 0, 0.0, 0.0
        for y, x in itertools.product(range(pred.shape[2]), range(pred.shape[3])):
            if not unknown[b, 0, y, x]:
                continue
            n += 1
            p, a = pred[b, 0, y, x].item(), alpha[b, 0, y, x].item()
            of_alphas += math.sqrt((p - a) ** 2 + 1e-12)
            for c in range(3):
                front, back = foreground[b, c, y, x].item(), background[b, c, y, x].item()
                composed, true = p * front + (1 - p) * back, a * front + (1 - a) * back
                of_colors += math.sqrt((composed - true) ** 2 + 1e-12)
        of_alpha += of_alphas / (n + 1) / len(pred)
        of_composition += of_colors / (n + 1) / len(pred)
    return of_alpha, of_composition


def test_equal_loops(maps):
    of_alpha, of_composition = by_loops(**maps)
    losses = MattingLoss()(**maps)
    assert losses["loss_alpha"].item() == pytest.approx(0.5 * of_alpha, rel=1e-5)
    assert losses["loss_composition"].item() == pytest.approx(0.5 * of_composition, rel=1e-5)
    losses = MattingLoss(alpha_weight=2, composition_weight=0.25)(**maps)
    assert losses["loss_alpha"].item() == pytest.approx(2 * of_alpha, rel=1e-5)
    assert losses["loss_composition"].item() == pytest.approx(0.25 * of_composition, rel=1e-5)


def test_a_constant_error():
    """0.3 at 34 of 35 pixels: 34 * 0.3 / 35; times white on black, in three colors."""
    unknown = torch.ones(SHAPE, dtype=torch.bool)
    unknown[:, :, 0, 0] = False
    alpha = torch.full(SHAPE, 0.5)
    white, black = torch.ones(2, 3, 5, 7), torch.zeros(2, 3, 5, 7)
    expected = 34 * 0.3 / 35
    assert alpha_loss(alpha + 0.3, alpha, unknown).item() == pytest.approx(expected, rel=1e-5)
    loss = composition_loss(alpha - 0.3, alpha, white, black, unknown)
    assert loss.item() == pytest.approx(3 * expected, rel=1e-5)
    # what is seen through equal colors makes no difference
    assert composition_loss(alpha - 0.3, alpha, white, white, unknown) < 1e-5


def test_each_image_counts_alike():
    """An image with one unknown pixel and one with all unknown: means of each, then of both."""
    unknown = torch.ones(SHAPE, dtype=torch.bool)
    unknown[0] = False
    unknown[0, 0, 2, 3] = True
    pred = torch.zeros(SHAPE)
    pred[0] = 1.0
    loss = alpha_loss(pred, torch.zeros(SHAPE), unknown)
    assert loss.item() == pytest.approx((1 / 2) / 2, rel=1e-4)


def test_known_pixels_have_no_gradient_and_no_gradient_is_infinite(maps):
    pred = maps.pop("pred").requires_grad_()
    with torch.no_grad():
        pred[0] = maps["alpha"][0]  # no error at all
    sum(MattingLoss()(pred, **maps).values()).backward()
    assert torch.isfinite(pred.grad).all()
    assert not pred.grad[0].any()
    assert not pred.grad[~maps["unknown"]].any()
    assert pred.grad[1][maps["unknown"][1]].all()


def test_without_unknown_pixels_it_is_zero(maps):
    maps["unknown"][:] = False
    assert all(loss == 0 for loss in MattingLoss()(**maps).values())


def test_without_compositions(maps):
    losses = MattingLoss(composition_weight=0)(maps["pred"], maps["alpha"], maps["unknown"])
    assert losses.keys() == {"loss_alpha"}


def test_half_precision_does_not_lose_small_errors(maps):
    """float16 has no number between 0 and 6e-8, where the square of 0.0002 and 1e-12 are."""
    maps["pred"] = torch.full(SHAPE, 0.501, dtype=torch.float16)
    maps["alpha"] = torch.full(SHAPE, 0.5, dtype=torch.float16)
    loss = MattingLoss()(**maps)["loss_alpha"]
    assert loss.dtype == torch.float32 and loss > 3e-4
