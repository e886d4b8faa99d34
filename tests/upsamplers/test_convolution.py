"""Deconv and PixelShuffle against their definitions."""

from __future__ import annotations

import itertools

import pytest
import torch

from mmdysample import Deconv, PixelShuffle
from tests.reference.pixelwise import convolve
from tests.utils import assert_close, randomize


@pytest.mark.parametrize("scale_factor", [1, 2, 3, 4])
def test_deconv_adds_a_kernel_around_every_pixel(scale_factor):
    s = scale_factor
    up = randomize(Deconv(3, s)).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = up.conv.bias.detach().reshape(1, 3, 1, 1).repeat(2, 1, s * 4, s * 5)
    # Input pixel (row, col) lands on output pixel (s*row, s*col), the kernel's middle.
    middle = s - 1
    for row, col, i, j in itertools.product(range(4), range(5), *[range(2 * s - 1)] * 2):
        target = (s * row + i - middle, s * col + j - middle)
        if 0 <= target[0] < s * 4 and 0 <= target[1] < s * 5:
            tap = up.conv.weight.detach()[:, :, i, j]
            expected[:, :, target[0], target[1]] += x[:, :, row, col] @ tap
    assert_close(up(x), expected)


def test_deconv_is_the_papers():
    conv = Deconv(8).conv
    settings = (conv.kernel_size, conv.stride, conv.padding, conv.output_padding)
    assert settings == ((3, 3), (2, 2), (1, 1), (1, 1))


@pytest.mark.parametrize("scale_factor", [1, 2, 3])
def test_pixel_shuffle(scale_factor):
    s = scale_factor
    up = randomize(PixelShuffle(3, s)).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    wide = convolve(x, up.conv.weight, up.conv.bias, padding=1)
    expected = torch.zeros(2, 3, s * 4, s * 5, dtype=torch.float64)
    for c, row, col in itertools.product(*map(range, expected.shape[1:])):
        channel = c * s * s + (row % s) * s + col % s
        expected[:, c, row, col] = wide[:, channel, row // s, col // s]
    assert_close(up(x), expected)


@pytest.mark.parametrize(("cls", "weights"), [(Deconv, 589_824), (PixelShuffle, 2_359_296)])
def test_parameters(cls, weights):
    with torch.device("meta"):
        up = cls(256)
    assert up.conv.weight.numel() == weights
    assert up.conv.bias.numel() == up.conv.out_channels


@pytest.mark.parametrize("cls", [Deconv, PixelShuffle])
def test_kernels_start_at_random_or_as_nearest(cls):
    message = "initial_kernel must be one of 'random', 'nearest', got 'bilinear'"
    with pytest.raises(ValueError, match=message):
        cls(8, initial_kernel="bilinear")
