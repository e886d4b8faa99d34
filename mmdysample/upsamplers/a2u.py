"""A2U: affinity-aware upsampling.

Dai, Lu, Shen: "Learning Affinity-Aware Upsampling for Deep Image Matting", CVPR 2021.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdysample.errors import InvalidValue
from mmdysample.ops import reassemble
from mmdysample.ops.tracing import is_exporting
from mmdysample.registry import register_upsampler
from mmdysample.upsamplers.base import Upsampler
from mmdysample.upsamplers.layers import (
    Conv2d,
    group_norm,
    only_scale_2,
    pixel_shuffle,
    to_float32_or_more,
)

GROUPS = 32  # of the normalization
WINDOW = 6  # of the low-rank kernels U and V, in pixels of the guide
KERNEL_SIZE = 3  # of the upsampling kernels


@register_upsampler
class A2U(Upsampler):
    """Upsampling kernels from second-order features of the guide ('dynamic-cs-d').

    The guide predicts, for each sample, two 6x6 kernels U and V, shared by all channels, and 36
    numbers P. With u and v the guide convolved by U and V at the resolution of ``x``, normalized in
    32 groups and passed through LeakyReLU, the affinity of a pixel is the scaled inner product
    A = u.v / sqrt(C_y); A*P are the logits of the 3x3 kernels of its four sub-pixels. They pass
    through sigmoid and softmax, and sum neighbors of ``x``, zero outside the map.

    Args:
        in_channels: channels C of ``x``.
        scale_factor: 2, nothing else is defined.
        guide_channels: C_y, divisible by 32.

    Weights without biases and normalization: 38*C_y.

    State-dict names are ``U``, ``V``, ``P``, ``norm_u``, ``norm_v``; those of the authors' module
    load too, without ``bconv_DP``, which belongs to their downsampling.
    """

    guided = True
    published_names: ClassVar = {
        "bconv_U.1.": "U.",
        "bconv_V.1.": "V.",
        "bconv_UP.1.": "P.",
        "bnu.0.": "norm_u.",
        "bnv.0.": "norm_v.",
    }

    def __init__(
        self, in_channels: int, scale_factor: int = 2, *, guide_channels: int | None = None
    ) -> None:
        super().__init__(in_channels, scale_factor, guide_channels=guide_channels)
        only_scale_2("A2U", scale_factor)
        c_y = self.guide_channels
        if c_y % GROUPS:
            raise InvalidValue(f"guide_channels must be divisible by {GROUPS}, got {c_y}")
        self.U = Conv2d(c_y, 1, 1)
        self.V = Conv2d(c_y, 1, 1)
        self.P = Conv2d(c_y, KERNEL_SIZE**2 * self.scale_factor**2, 1)
        self.norm_u = nn.GroupNorm(GROUPS, c_y)
        self.norm_v = nn.GroupNorm(GROUPS, c_y)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        for name in [name for name in state_dict if name.startswith(prefix + "bconv_DP.")]:
            del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def upsample(self, x: Tensor, guide: Tensor, size: tuple[int, int]) -> Tensor:
        return reassemble(x, self.kernel(guide), KERNEL_SIZE, self.scale_factor)

    def _intermediate_maps(self, x: Tensor, guide: Tensor) -> dict[str, Tensor]:
        return {"kernel": self.kernel(guide)}

    def kernel(self, guide: Tensor) -> Tensor:
        """The kernels, (B, C_y, 2H, 2W) -> (B, 9, 2H, 2W); each sums to 1."""
        logits = self.affinity(guide) * self.P(guide.mean(dim=(2, 3), keepdim=True))
        return pixel_shuffle(logits, self.scale_factor).sigmoid().softmax(dim=1)

    def affinity(self, guide: Tensor) -> Tensor:
        """A, (B, C_y, 2H, 2W) -> (B, 1, H, W), in float32 or float64."""
        pooled = _pool_to_window(guide)
        kernels = torch.cat((self.U(pooled), self.V(pooled)), dim=1)
        u, v = _convolve_each_sample(guide.to(kernels.dtype), kernels).unbind(dim=2)
        u = to_float32_or_more(F.leaky_relu(group_norm(u, self.norm_u), 0.01))
        v = to_float32_or_more(F.leaky_relu(group_norm(v, self.norm_v), 0.01))
        return (u * v).sum(dim=1, keepdim=True) / self.guide_channels**0.5

    def flops(self, height: int, width: int) -> dict[str, int]:
        c_y, taps = self.guide_channels, self.scale_factor**2 * KERNEL_SIZE**2
        pooled = WINDOW**2 * 2 * c_y + taps * c_y
        return {
            "kernel generation": pooled + (2 * WINDOW**2 * c_y + c_y + taps) * height * width,
            "feature assembly": taps * self.in_channels * height * width,
        }


def _pool_to_window(guide: Tensor) -> Tensor:
    """Adaptive average pooling, (B, C, h, w) -> (B, C, 6, 6)."""
    if not is_exporting():
        return F.adaptive_avg_pool2d(guide, WINDOW)
    # ONNX has no adaptive pooling of sizes that are left open: average with two small matrices.
    rows, columns = (_averages(size, guide) for size in guide.shape[2:])
    return rows @ guide @ columns.T


def _averages(size: int, like: Tensor) -> Tensor:
    """(6, size): row i averages pixels floor(i*size/6) to ceil((i+1)*size/6), end excluded."""
    part = torch.arange(WINDOW, device=like.device).unsqueeze(1)
    pixel = torch.arange(size, device=like.device)
    # A pixel is in a part if they overlap at all, both counted in sixths of a pixel.
    inside = (WINDOW * (pixel + 1) > part * size) & (WINDOW * pixel < (part + 1) * size)
    inside = inside.to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


def _convolve_each_sample(guide: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each sample with its own n kernels of 6x6, stride 2, padding 2.

    (B, C, 2H, 2W), (B, n, 6, 6) -> (B, C, n, H, W); all channels of a sample share its kernels.
    """
    batch, n = kernels.shape[:2]
    if is_exporting() or batch == 0:  # a convolution has at least one group
        return _convolve_each_sample_by_taps(guide, kernels)
    # A group a sample; what is batch elsewhere are here the channels.
    weight = kernels.reshape(batch * n, 1, WINDOW, WINDOW)
    out = F.conv2d(guide.transpose(0, 1), weight, stride=2, padding=2, groups=batch)
    return out.unflatten(1, (batch, n)).transpose(0, 1)


def _convolve_each_sample_by_taps(guide: Tensor, kernels: Tensor) -> Tensor:
    """The same without a group a sample: in ONNX, where groups are a constant, or for no sample."""
    # With the 2x2 sub-pixels as channels, the stride is 1 and the kernels are 3x3.
    padded = _sub_pixels(F.pad(guide, (2, 2, 2, 2))).unsqueeze(2)
    kernels = _sub_pixels(kernels).unsqueeze(1)
    height, width = guide.shape[2] // 2, guide.shape[3] // 2
    out = 0
    for i in range(WINDOW // 2):
        for j in range(WINDOW // 2):
            tap = kernels[..., i : i + 1, j : j + 1]
            out = out + (tap * padded[..., i : i + height, j : j + width]).sum(dim=3)
    return out


def _sub_pixels(x: Tensor) -> Tensor:
    """(B, C, 2H, 2W) -> (B, C, 4, H, W), the order of pixel_unshuffle.

    (pixel_unshuffle itself leaves some exporters to ONNX in another order.)
    """
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(batch, channels, 4, height // 2, width // 2)
