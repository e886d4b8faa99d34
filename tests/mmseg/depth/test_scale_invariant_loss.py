"""The scale-invariant loss: loops, closed forms, mmseg's own where both are defined."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import numpy as np
import torch
from mmseg.models.losses import SiLogLoss

from mmdysample.errors import InvalidType, InvalidValue
from mmdysample.mmseg.depth import ScaleInvariantLoss

BTS = dict(scale=10, min_depth=0.1)
DEPTHFORMER = dict(eps=1e-3, unbiased=True)


def maps(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Predicted and true depth, of which a fifth is unknown and some below 0.1 m."""
    pred = torch.rand(batch, 1, 5, 7) * 9 + 0.05
    target = torch.rand(batch, 1, 5, 7) * 9 + 0.02
    target[torch.rand(target.shape) < 0.2] = 0
    target[0, 0, 0, :2] = torch.tensor([0.05, 0.1])
    return pred, target


def by_loops(pred, target, scale, eps, min_depth, unbiased, focus=0.85) -> float:
    errors = [
        math.log(p + eps) - math.log(t + eps)
        for p, t in zip(pred.flatten().tolist(), target.flatten().tolist(), strict=True)
        if t > np.float32(min_depth)
    ]
    if unbiased:
        mean = sum(errors) / len(errors)
        variance = sum((e - mean) ** 2 for e in errors) / (len(errors) - 1)
        return scale * math.sqrt(variance + (1 - focus) * mean**2)
    squares = sum(e * e for e in errors) / len(errors)
    return scale * math.sqrt(squares - focus * (sum(errors) / len(errors)) ** 2)


@pytest.mark.parametrize("settings", [BTS, DEPTHFORMER], ids=["bts", "depthformer"])
def test_both_papers(settings):
    pred, target = maps()
    defaults = dict(scale=1, eps=0, min_depth=0, unbiased=False)
    expected = by_loops(pred, target, **{**defaults, **settings})
    loss = ScaleInvariantLoss(**settings)
    assert loss(pred, target).item() == pytest.approx(expected, rel=1e-5)
    assert loss(pred, target[:, 0]).item() == pytest.approx(expected, rel=1e-5)
    weighted = ScaleInvariantLoss(**settings, loss_weight=0.5)
    assert weighted(pred, target).item() == pytest.approx(expected / 2, rel=1e-5)


def test_mmsegs_own_at_its_variance_focus():
    """It takes each image by itself, and its lambda is always 0.5."""
    pred, target = maps()
    upstream = SiLogLoss(reduction="none")(pred, target)
    own = ScaleInvariantLoss(variance_focus=0.5, min_depth=1e-6)
    for index in range(2):
        actual = own(pred[index : index + 1], target[index : index + 1])
        assert actual.item() == pytest.approx(upstream[index].item(), rel=1e-5)


def test_a_common_factor():
    """pred = f * target: no variance, and the mean of the logarithms is log f."""
    _, target = maps()
    for focus in (0.0, 0.85, 1.0):
        loss = ScaleInvariantLoss(variance_focus=focus)(1.1 * target, target).item()
        assert loss == pytest.approx(math.log(1.1) * math.sqrt(1 - focus), abs=1e-6)
    pred, _ = maps()
    invariant = ScaleInvariantLoss(variance_focus=1.0)
    assert invariant(3 * pred, target).item() == pytest.approx(invariant(pred, target).item())


@pytest.mark.parametrize("settings", [BTS, DEPTHFORMER], ids=["bts", "depthformer"])
@pytest.mark.parametrize("distance", [0.0, 1e-7, 1e-4])
def test_a_perfect_prediction_has_a_finite_gradient(settings, distance):
    """mmseg's SiLogLoss gives NaN there."""
    _, target = maps()
    target[0, 0, 1, 1] = 3.0
    pred = target.clone()
    pred[0, 0, 1, 1] += distance
    pred.requires_grad_()
    loss = ScaleInvariantLoss(**settings)(pred, target)
    loss.backward()
    assert torch.isfinite(pred.grad).all()
    assert pred.grad.abs().max() < 10
    if not distance:
        assert loss.item() == 0 and not pred.grad.any()

    upstream = target[:1].clone().requires_grad_()
    SiLogLoss()(upstream, target[:1]).backward()
    assert torch.isnan(upstream.grad).any()


def test_no_valid_pixel():
    pred = torch.rand(2, 1, 4, 4, requires_grad=True)
    for nothing in (0.0, -1.0, float("nan"), float("inf")):
        for unbiased in (False, True):
            loss = ScaleInvariantLoss(unbiased=unbiased)(pred, torch.full((2, 1, 4, 4), nothing))
            (grad,) = torch.autograd.grad(loss, pred)
            assert loss.item() == 0 and not grad.any()


def test_one_valid_pixel():
    """The variance of one value is 0, also where n - 1 would divide it."""
    target = torch.zeros(1, 1, 2, 2)
    target[0, 0, 0, 0] = 2
    pred = torch.full((1, 1, 2, 2), 3.0)
    for unbiased in (False, True):
        loss = ScaleInvariantLoss(variance_focus=0.75, unbiased=unbiased)(pred, target)
        assert loss.item() == pytest.approx(0.5 * math.log(1.5), rel=1e-6)


def test_gradient_by_differences():
    pred, target = maps()
    for settings in (BTS, DEPTHFORMER):
        value = pred.clone().requires_grad_()
        loss = ScaleInvariantLoss(**settings)
        loss(value, target).backward()
        valid = target[0, 0] > 0.1
        for row, column in valid.nonzero()[:3].tolist():
            both = []
            for step in (1e-2, -1e-2):
                moved = pred.double().clone()
                moved[0, 0, row, column] += step
                defaults = dict(scale=1, eps=0, min_depth=0, unbiased=False)
                both.append(by_loops(moved, target, **{**defaults, **settings}))
            expected = (both[0] - both[1]) / 2e-2
            assert value.grad[0, 0, row, column].item() == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    pred, target = maps()
    rounded = pred.to(dtype)
    loss = ScaleInvariantLoss(**DEPTHFORMER)
    assert loss(rounded, target).dtype == torch.float32
    assert torch.equal(loss(rounded, target), loss(rounded.float(), target))


def test_a_prediction_of_zero_depth_is_finite():
    target = torch.full((1, 1, 2, 2), 2.0)
    pred = torch.tensor([[[[0.0, -1.0], [2.0, 2.0]]]], requires_grad=True)
    loss = ScaleInvariantLoss(**BTS)(pred, target)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(pred.grad).all()


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        (dict(variance_focus=1.5), InvalidValue, r"must lie in 0\.\.1.* got 1\.5"),
        (dict(variance_focus=-0.1), InvalidValue, r"variance_focus .* at least 0, got -0\.1"),
        (
            dict(scale="10"),
            InvalidType,
            r"scale of .* must be a finite number of at least 0, got '10'",
        ),
        (dict(eps=float("nan")), InvalidValue, r"eps of .* finite number"),
        (dict(min_depth=-1), InvalidValue, r"min_depth of"),
        (dict(loss_weight=None), InvalidType, r"loss_weight of"),
        (dict(unbiased=1), InvalidType, r"unbiased of .* must be True or False, got 1"),
    ],
)
def test_settings_that_make_no_loss(settings, error, says):
    with pytest.raises(error, match=says):
        ScaleInvariantLoss(**settings)


def test_sizes_that_differ():
    loss = ScaleInvariantLoss()
    for size in ((2, 1, 5, 6), (1, 1, 5, 7), (2, 3, 5, 7), (5, 7)):
        with pytest.raises(InvalidValue, match=r"the prediction is \(2, 1, 5, 7\)"):
            loss(torch.ones(2, 1, 5, 7), torch.ones(size))
