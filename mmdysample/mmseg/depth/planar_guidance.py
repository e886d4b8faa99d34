"""Local planar guidance: a patch of an image is a plane in space (BTS, section 3.3).

Lee et al.: "From Big to Small: Multi-Scale Local Planar Guidance for Monocular Depth Estimation",
arXiv 1907.10326.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmdysample.errors import InvalidValue
from mmdysample.ops.checks import positive_int
from mmdysample.ops.precision import float32_or_more

MAX_INCLINATION = math.pi / 3  # between a plane's normal and the direction of view


def planes_of(logits: Tensor, max_distance: float) -> Tensor:
    """Planes from what a network predicts of them.

    The inclination theta of the normal is in (0, pi/3), its azimuth phi in (0, 2 pi), the distance
    in (0, max_distance), each a sigmoid.

    Args:
        logits: (B, 3, H, W): of theta, phi and the distance.
        max_distance: in meters.

    Returns:
        (B, 4, H, W): the normal's three components, of length 1 together, and the distance in
        meters; float32 for lower precisions.
    """
    if logits.dim() != 4 or logits.shape[1] != 3:
        raise InvalidValue(f"planes_of: logits must be (B, 3, H, W), got {tuple(logits.shape)}")
    theta, phi, distance = logits.to(float32_or_more(logits.dtype)).sigmoid().unbind(1)
    theta = theta * MAX_INCLINATION
    phi = phi * (2 * math.pi)
    return torch.stack(
        (
            theta.sin() * phi.cos(),
            theta.sin() * phi.sin(),
            theta.cos(),
            distance * max_distance,
        ),
        dim=1,
    )


def local_planar_guidance(planes: Tensor, patch_size: int, bound: float | None = None) -> Tensor:
    """The depth at which each pixel's ray meets the plane of its patch, Eq. (1).

    A pixel in column i and row j of its patch of k x k, from 0, looks along (u, v, 1) with
    u = (i - (k - 1) / 2) / k and v = (j - (k - 1) / 2) / k, and sees the plane (n1, n2, n3, n4) at
    n4 / (n1 u + n2 v + n3). A ray along a plane never meets it: the depth grows without bound
    towards it, and is negative beyond.

    Args:
        planes: (B, 4, H, W): normal n1, n2 (right and down), n3 (away from the camera), and the
            distance n4.
        patch_size: k, pixels.
        bound: where a depth would not lie between -bound and bound, it is the nearer of these, and
            its gradient is 0; None is without.

    Returns:
        (B, 1, k*H, k*W), in the unit of the distances.

    Raises:
        ValueError: wrong shape, or ``patch_size`` is no positive integer.
    """
    if planes.dim() != 4 or planes.shape[1] != 4:
        raise InvalidValue(
            f"local_planar_guidance: planes must be (B, 4, H, W), got {tuple(planes.shape)}"
        )
    k = positive_int("patch_size", patch_size)
    batch, _, height, width = planes.shape
    offsets = torch.arange(k, device=planes.device, dtype=planes.dtype)
    offsets = (offsets - (k - 1) / 2) / k
    u = offsets.reshape(1, 1, 1, 1, k)
    v = offsets.reshape(1, 1, k, 1, 1)
    # (B, H, 1, W, 1) each; the axes of 1 are the rows and columns in a patch
    n1, n2, n3, n4 = planes.reshape(batch, 4, height, 1, width, 1).unbind(1)
    slope = n1 * u + n2 * v + n3
    if bound is None:
        depth = n4 / slope
    else:
        # It is decided before the division, of which 0 would be left as NaN in the gradient.
        within = n4.abs() < bound * slope.abs()
        end = torch.where((n4 < 0) == (slope < 0), bound, -bound)
        depth = torch.where(within, n4 / torch.where(within, slope, 1), end)
    return depth.reshape(batch, 1, k * height, k * width)
