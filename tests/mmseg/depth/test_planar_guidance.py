"""Depth on local planes against intersections that are solved for, and closed forms."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmdysample.mmseg.depth.planar_guidance import local_planar_guidance, planes_of
from tests.reference import bts
from tests.utils import assert_close


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_rays_meet_the_planes_of_their_patches(k):
    torch.manual_seed(k)
    # mild inclinations: no ray is parallel to a plane
    planes = planes_of(torch.randn(2, 3, 3, 5, dtype=torch.float64), 10.0)
    depth = local_planar_guidance(planes, k)
    assert depth.shape == (2, 1, 3 * k, 5 * k)
    assert_close(depth, bts.planar_depth(planes, k, (3 * k, 5 * k)))


def test_a_plane_that_faces_the_camera_has_one_depth():
    planes = torch.tensor([0.0, 0.0, 1.0, 3.5]).reshape(1, 4, 1, 1).expand(1, 4, 2, 3)
    assert torch.equal(local_planar_guidance(planes, 8), torch.full((1, 1, 16, 24), 3.5))


def test_an_inclined_plane():
    """Tilted by 45 degrees to the right, 2 m away: z + x = 2 sqrt(2), and x = u z."""
    half = math.sqrt(0.5)
    planes = torch.tensor([half, 0.0, half, 2.0], dtype=torch.float64).reshape(1, 4, 1, 1)
    depth = local_planar_guidance(planes, 4)[0, 0]
    for column, u in enumerate((-3 / 8, -1 / 8, 1 / 8, 3 / 8)):
        assert_close(
            depth[:, column],
            torch.tensor(2 * math.sqrt(2) / (1 + u), dtype=torch.float64).expand(4),
        )
    downwards = local_planar_guidance(planes[:, [1, 0, 2, 3]], 4)[0, 0]
    assert_close(downwards, depth.T)


def test_each_patch_has_its_own_plane():
    planes = torch.zeros(1, 4, 2, 3)
    planes[:, 2] = 1
    planes[0, 3] = torch.arange(6.0).reshape(2, 3)
    expected = torch.arange(6.0).reshape(2, 3).repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert torch.equal(local_planar_guidance(planes, 4)[0, 0], expected)


def test_planes_of_zeros():
    """In the middle of the ranges: 30 degrees, to the left, at half of the distance."""
    expected = torch.tensor([-0.5, 0.0, math.sqrt(0.75), 5.0]).reshape(1, 4, 1, 1)
    assert_close(planes_of(torch.zeros(1, 3, 1, 1), 10.0), expected)


def test_ranges_of_planes():
    planes = planes_of(20 * torch.randn(1, 3, 50, 50, dtype=torch.float64), 10.0)
    normal, distance = planes[:, :3], planes[:, 3]
    assert_close(normal.norm(dim=1), torch.ones(1, 50, 50).double())
    assert normal[:, 2].min() >= 0.5 - 1e-12 and normal[:, 2].max() <= 1
    assert 0 <= distance.min() < 0.1 and 9.9 < distance.max() <= 10
    azimuth = torch.atan2(normal[:, 1], normal[:, 0])
    assert azimuth.min() < -2 and azimuth.max() > 2  # all around


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    logits = torch.randn(1, 3, 4, 4).to(dtype)
    planes = planes_of(logits, 10.0)
    assert planes.dtype == torch.float32
    assert torch.equal(planes, planes_of(logits.float(), 10.0))


def test_gradients():
    logits = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: local_planar_guidance(planes_of(x, 10.0), 2), logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bound(dtype):
    """Of the four rays of a patch u is -1/4, 1/4; the plane is seen at n4 / (u + n3)."""

    def depth_and_gradient(n3, n4):
        planes = torch.tensor([1.0, 0.0, n3, n4], dtype=dtype).reshape(1, 4, 1, 1)
        planes.requires_grad_()
        depth = local_planar_guidance(planes, 2, bound=5.0)
        depth[0, 0, 0, 0].backward()
        assert depth.dtype == dtype
        return depth[0, 0, 0].tolist(), planes.grad.flatten().tolist()

    nothing = [0.0] * 4
    assert depth_and_gradient(0.75, 2.0) == ([4.0, 2.0], [2.0, 2.0, -8.0, 2.0])
    assert depth_and_gradient(0.375, 2.5) == ([5.0, 4.0], nothing)
    assert depth_and_gradient(0.25, 2.0) == ([5.0, 4.0], nothing)
    assert depth_and_gradient(0.125, 2.0) == ([-5.0, 5.0], nothing)
    assert depth_and_gradient(0.125, -2.0) == ([5.0, -5.0], nothing)
    assert depth_and_gradient(0.25, 0.0) == ([5.0, 0.0], nothing)


def test_user_errors():
    with pytest.raises(ValueError, match=r"logits must be \(B, 3, H, W\), got \(1, 4, 2, 2\)"):
        planes_of(torch.zeros(1, 4, 2, 2), 10.0)
    with pytest.raises(ValueError, match=r"planes must be \(B, 4, H, W\), got \(4, 2, 2\)"):
        local_planar_guidance(torch.zeros(4, 2, 2), 8)
    with pytest.raises(ValueError, match="patch_size must be an integer >= 1, got 0"):
        local_planar_guidance(torch.zeros(1, 4, 2, 2), 0)
