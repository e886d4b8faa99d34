"""The scale-invariant loss of monocular depth estimation."""

from __future__ import annotations

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmdysample.errors import InvalidType, InvalidValue
from mmdysample.ops.checks import finite_number

# What a prediction is clamped to before its logarithm is taken.
LEAST_DEPTH = 1e-6


@MODELS.register_module()
class ScaleInvariantLoss(nn.Module):
    """How far the logarithms of predicted and true depth differ, a common factor counting less.

    Sources: Eigen et al., NIPS 2014, equation 4; Lee et al., "From Big to Small" (BTS), equation 5.
    With g = log(pred + eps) - log(target + eps) at the valid pixels of the whole batch together:

        scale * sqrt(Var(g) + (1 - variance_focus) * Mean(g)^2)

    Unless ``unbiased``, Var(g) = Mean(g^2) - Mean(g)^2, and the root is BTS's
    sqrt(Mean(g^2) - variance_focus * Mean(g)^2). The two papers' settings:

    - BTS: ``scale=10, min_depth=0.1``;
    - DepthFormer: ``eps=1e-3, unbiased=True``.

    Where the root is 0, at a perfect prediction, its gradient is set to 0. Without any valid pixel
    the loss is a 0 that is still a function of the prediction, so that a backward pass and its
    synchronization among processes go on.

    Args:
        variance_focus: lambda in 0..1; at 1 a common factor of all predictions does not count.
        scale: factor of the root.
        eps: in meters, is added to both depths before the logarithm.
        min_depth: in meters; a true depth must be above it to be valid.
        unbiased: whether the variance of n pixels is divided by n - 1 instead of n.
        loss_weight: another factor, as mmseg's losses have it.
        loss_name: name in the logs; what begins with ``loss_`` is trained on.
    """

    def __init__(
        self,
        variance_focus: float = 0.85,
        scale: float = 1.0,
        eps: float = 0.0,
        min_depth: float = 0.0,
        unbiased: bool = False,
        loss_weight: float = 1.0,
        loss_name: str = "loss_depth",
    ) -> None:
        super().__init__()
        values = dict(
            variance_focus=variance_focus,
            scale=scale,
            eps=eps,
            min_depth=min_depth,
            loss_weight=loss_weight,
        )
        for name, value in values.items():
            finite_number(
                f"{name} of ScaleInvariantLoss", value, "a finite number of at least 0", least=0
            )
        if variance_focus > 1:
            raise InvalidValue(
                "variance_focus of ScaleInvariantLoss must lie in 0..1, else the root could be of "
                f"a negative number, got {variance_focus!r}"
            )
        if not isinstance(unbiased, bool):
            raise InvalidType(
                f"unbiased of ScaleInvariantLoss must be True or False, got {unbiased!r}"
            )
        self.variance_focus = variance_focus
        self.scale = scale
        self.eps = eps
        self.min_depth = min_depth
        self.unbiased = unbiased
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch, a scalar in float32 also where autocast is on.

        Args:
            pred: (B, 1, H, W) or (B, H, W), predicted depth in meters.
            target: likewise, true depth; not valid where it is not above ``min_depth`` or not
                finite.

        Raises:
            ValueError: the two differ in size.
        """
        if _without_channel(pred) != _without_channel(target):
            raise InvalidValue(
                f"ScaleInvariantLoss: the prediction is {tuple(pred.shape)} and the true depth "
                f"{tuple(target.shape)}, but they must be (B, 1, H, W) or (B, H, W) of one size"
            )
        pred, target = pred.float().flatten(), target.float().flatten()
        valid = (target > self.min_depth) & target.isfinite()
        count = valid.sum()
        error = (pred + self.eps).clamp(min=LEAST_DEPTH).log() - (target + self.eps).log()
        error = torch.where(valid, error, 0)
        mean = error.sum() / count.clamp(min=1)
        deviation = torch.where(valid, error - mean, 0)
        variance = deviation.square().sum() / (count - int(self.unbiased)).clamp(min=1)
        root = _root(variance + (1 - self.variance_focus) * mean.square())
        return self.loss_weight * self.scale * root

    def extra_repr(self) -> str:
        return (
            f"variance_focus={self.variance_focus}, scale={self.scale}, eps={self.eps}, "
            f"min_depth={self.min_depth}, unbiased={self.unbiased}"
        )


def _root(x: Tensor) -> Tensor:
    """The square root of a number >= 0, with the gradient 0 at 0."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1).sqrt(), x)


def _without_channel(depth: Tensor) -> tuple[int, ...]:
    shape = tuple(depth.shape)
    return (shape[0], *shape[2:]) if len(shape) == 4 and shape[1] == 1 else shape
