"""What a predicted alpha matte is trained with."""

from __future__ import annotations

from mmseg.registry import MODELS
from torch import Tensor, nn

_EPS = 1e-12  # keeps the gradient finite where prediction and ground truth are equal


def alpha_loss(pred: Tensor, alpha: Tensor, unknown: Tensor) -> Tensor:
    """Absolute error of alpha in the unknown region (Xu et al., Deep Image Matting, CVPR 2017).

    The sum over an image's unknown pixels of sqrt((pred - alpha)^2 + 1e-12) is divided by their
    number and one more; the result is the mean over the images.

    Args:
        pred: (B, 1, H, W), not clamped.
        alpha: (B, 1, H, W) in [0, 1].
        unknown: (B, 1, H, W), boolean.
    """
    return _mean_of_unknown(_absolute(pred - alpha), unknown)


def composition_loss(
    pred: Tensor, alpha: Tensor, foreground: Tensor, background: Tensor, unknown: Tensor
) -> Tensor:
    """Absolute error of the image that the predicted alpha composes (the same paper).

    With alpha F + (1 - alpha) B the error of a color channel is (pred - alpha) (F - B); it is
    summed over the three, and over pixels as `alpha_loss` does it.

    Args:
        pred: (B, 1, H, W), not clamped.
        alpha: (B, 1, H, W) in [0, 1].
        foreground: F, (B, 3, H, W) in [0, 1].
        background: B, (B, 3, H, W) in [0, 1].
        unknown: (B, 1, H, W), boolean.
    """
    error = _absolute((pred - alpha) * (foreground - background))
    return _mean_of_unknown(error.sum(dim=1, keepdim=True), unknown)


@MODELS.register_module()
class MattingLoss(nn.Module):
    """The weighted sum of `alpha_loss` and `composition_loss`.

    Args:
        alpha_weight: of the first.
        composition_weight: of the second; with 0 no foreground and background are needed.
    """

    def __init__(self, alpha_weight: float = 0.5, composition_weight: float = 0.5) -> None:
        super().__init__()
        self.alpha_weight = alpha_weight
        self.composition_weight = composition_weight

    def forward(
        self,
        pred: Tensor,
        alpha: Tensor,
        unknown: Tensor,
        foreground: Tensor | None = None,
        background: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Both losses with their weights, in float32; arguments as in the two functions."""
        pred = pred.float()  # the square of a small error, and 1e-12, are 0 in half precision
        losses = dict(loss_alpha=self.alpha_weight * alpha_loss(pred, alpha, unknown))
        if self.composition_weight:
            loss = composition_loss(pred, alpha, foreground, background, unknown)
            losses["loss_composition"] = self.composition_weight * loss
        return losses


def _absolute(difference: Tensor) -> Tensor:
    return (difference.square() + _EPS).sqrt()


def _mean_of_unknown(error: Tensor, unknown: Tensor) -> Tensor:
    total = (error * unknown).sum(dim=(1, 2, 3))
    return (total / (unknown.sum(dim=(1, 2, 3)) + 1)).mean()
