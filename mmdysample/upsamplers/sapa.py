"""SAPA: similarity-aware point affiliation.

Lu, Liu, Ye, Fu, Liu, Cao: "SAPA: Similarity-Aware Point Affiliation for Feature Upsampling",
NeurIPS 2022.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from mmdysample.errors import InvalidType, InvalidValue
from mmdysample.ops import local_similarity, reassemble
from mmdysample.ops.checks import odd_int, positive_int
from mmdysample.registry import register_upsampler
from mmdysample.upsamplers.base import Upsampler, one_of
from mmdysample.upsamplers.layers import (
    Linear,
    as_cells,
    group_norm,
    join_cells,
    split_cells,
    to_float32_or_more,
)

# The linear layers of each variant
LAYERS = {
    "i": (),
    "b": ("q", "k"),
    "g": ("q_y", "q_x", "k", "gate"),
    "p": ("q_y", "q_x", "k"),
}
EPSILON = 1e-6
# Normalizations, and the initial weights of the linear layers in the authors' repository of each
NORMS = {
    "layer": partial(nn.init.trunc_normal_, std=0.02),
    "group": partial(nn.init.normal_, std=0.02),
}
GROUPS = 32  # of the group normalization


def _divide_by_sum(weights: Tensor) -> Tensor:
    return weights / (weights.sum(dim=1, keepdim=True) + EPSILON)


# h of Eq. (3), and the division by its sum over the window
NORMALIZATIONS = {
    "exp": lambda similarity: similarity.softmax(dim=1),
    "relu": lambda similarity: _divide_by_sum(similarity.relu()),
    "sigmoid": lambda similarity: _divide_by_sum(similarity.sigmoid()),
    "softplus": lambda similarity: _divide_by_sum(F.softplus(similarity)),
    "none": lambda similarity: similarity,
}


@register_upsampler
class SAPA(Upsampler):
    """Kernels from the similarity of each guide pixel with the K*K pixels of ``x`` around it.

    A guide pixel gives a query q, a pixel of x a key k. The kernel of an output pixel is h of the
    inner products of its query with the keys of the window, divided by their sum; it sums the raw
    x. Outside the map the similarity is 0, which takes part in the normalization, and so is x.

    ======================  ========================================  ===============
    SAPA-I ('i')            q = LN(y)                                 k = LN(x)
    SAPA-B ('b')            q = W_q LN(y)                             k = W_k LN(x)
    SAPA-G ('g')            q = g * W_y LN(y) + (1-g) * W_x x         k = W_k LN(x)
    plain addition ('p')    q = W_y LN(y) + W_x x                     k = W_k LN(x)
    ======================  ========================================  ===============

    LN normalizes over channels (``norm='group'``: each of 32 groups of channels over a sample's
    pixels), all W have biases, g = sigmoid(w LN(x)); what x gives q lies on
    each of the s*s sub-pixels.

    Args:
        in_channels: channels C of ``x``.
        scale_factor: s >= 1.
        variant: 'i', 'b', 'g' or 'p'; 'i' needs as many channels in the guide as in ``x``.
        kernel_size: K, odd.
        embedding_dim: d, channels of q and k; 'i' compares the C channels and does not use it.
        normalization: h, one of 'exp' (softmax), 'relu', 'sigmoid', 'softplus', each divided by its
            sum (plus 1e-6, but for 'exp'), or 'none': the similarity itself (Table 6).
        normalize_self: whether W_x sees LN(x), as the paper's text has it, or x as it is, as the
            published code has it. Only 'g' and 'p' have a W_x.
        norm: LN, 'layer' as in the paper and the authors' repository of SAPA, or 'group' as in
            their repository of segmentation models: GroupNorm(32), which needs C and C_y divisible
            by 32.
        guide_channels: C_y.

    State-dict names: ``norm_y`` and ``norm_x`` (LN), ``q``, ``k`` (W_q, W_k), ``q_y``, ``q_x``
    (W_y, W_x), ``gate`` (w). Those of the authors' modules load too: ``qy``, ``qx``, and 1x1
    convolutions in place of linear layers.
    """

    guided = True
    published_names: ClassVar = {"qy.": "q_y.", "qx.": "q_x."}

    def __init__(
        self,
        in_channels: int,
        scale_factor: int = 2,
        variant: str = "b",
        kernel_size: int = 5,
        embedding_dim: int = 32,
        normalization: str = "exp",
        *,
        normalize_self: bool = False,
        norm: str = "layer",
        guide_channels: int | None = None,
    ) -> None:
        super().__init__(in_channels, scale_factor, guide_channels=guide_channels)
        self.variant = one_of("variant", variant, tuple(LAYERS))
        self.kernel_size = odd_int("kernel_size", kernel_size)
        self.embedding_dim = positive_int("embedding_dim", embedding_dim)
        self.normalization = one_of("normalization", normalization, tuple(NORMALIZATIONS))
        if not isinstance(normalize_self, bool):
            raise InvalidType(f"normalize_self must be True or False, got {normalize_self!r}")
        self.normalize_self = normalize_self
        c, c_y, d = self.in_channels, self.guide_channels, self.embedding_dim
        if variant == "i" and c_y != c:
            raise InvalidValue(
                f"SAPA with variant='i' compares guide and x directly: guide_channels must be "
                f"in_channels={c}, got {c_y}; the other variants take any"
            )
        self.norm = one_of("norm", norm, tuple(NORMS))
        self.norm_y = self._make_norm("guide_channels", c_y)
        self.norm_x = self._make_norm("in_channels", c)
        shapes = dict(q=(c_y, d), q_y=(c_y, d), q_x=(c, d), k=(c, d), gate=(c, 1))
        for name in LAYERS[variant]:
            self.add_module(name, Linear(*shapes[name], init=NORMS[norm]))

    def _make_norm(self, name: str, channels: int) -> nn.Module:
        if self.norm == "layer":
            return nn.LayerNorm(channels)
        if channels % GROUPS:
            raise InvalidValue(
                f"SAPA with norm='group' needs {name} divisible by {GROUPS}, got {channels}"
            )
        return nn.GroupNorm(GROUPS, channels)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        for name, value in state_dict.items():
            # Of the layers' parameters only those of 1x1 convolutions have four dimensions.
            if name.startswith(prefix) and isinstance(value, Tensor) and value.dim() == 4:
                state_dict[name] = value.flatten(1)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def upsample(self, x: Tensor, guide: Tensor, size: tuple[int, int]) -> Tensor:
        return reassemble(x, self.kernel(x, guide), self.kernel_size, self.scale_factor)

    def _intermediate_maps(self, x: Tensor, guide: Tensor) -> dict[str, Tensor]:
        return {"kernel": self.kernel(x, guide)}

    def kernel(self, x: Tensor, guide: Tensor) -> Tensor:
        """The kernels, (B, K*K, s*H, s*W)."""
        query, key = self.embed(x, guide)
        similarity = local_similarity(query, key, self.kernel_size, self.scale_factor)
        return NORMALIZATIONS[self.normalization](to_float32_or_more(similarity))

    def embed(self, x: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
        """q, (B, d, s*H, s*W), and k, (B, d, H, W)."""
        x = x.permute(0, 2, 3, 1)  # LayerNorm and Linear take channels last
        y = _normalize(guide.permute(0, 2, 3, 1), self.norm_y)
        normalized = _normalize(x, self.norm_x)
        if self.variant == "i":
            return _channels_first(y), _channels_first(normalized)
        key = _channels_first(self.k(normalized))
        if self.variant == "b":
            return _channels_first(self.q(y)), key
        query = split_cells(_channels_first(self.q_y(y)), self.scale_factor)
        own = self.q_x(normalized if self.normalize_self else x.to(normalized.dtype))
        own = as_cells(_channels_first(own))
        if self.variant == "g":
            gate = as_cells(_channels_first(self.gate(normalized).sigmoid()))
            return join_cells(gate * query + (1 - gate) * own), key
        return join_cells(query + own), key

    def flops(self, height: int, width: int) -> dict[str, int]:
        s2, c = self.scale_factor**2, self.in_channels
        taps = s2 * self.kernel_size**2
        d = c if self.variant == "i" else self.embedding_dim
        embedding = sum(
            getattr(self, name).weight.numel() * (s2 if name in ("q", "q_y") else 1)
            for name in LAYERS[self.variant]
            if name != "gate"
        )
        parts = {
            "feature embedding": embedding,
            # the gate's own projection; what x gives is weighted before it spreads to sub-pixels
            "gated addition": c + (s2 + 1) * d if self.variant == "g" else 0,
            "inner product": taps * d,
            "feature assembly": taps * c,
        }
        return {part: count * height * width for part, count in parts.items()}

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, variant={self.variant!r}, kernel_size={self.kernel_size}, "
            f"embedding_dim={self.embedding_dim}, normalization={self.normalization!r}, "
            f"norm={self.norm!r}"
        )


def _normalize(x: Tensor, norm: nn.LayerNorm | nn.GroupNorm) -> Tensor:
    """(B, H, W, C) -> the same shape."""
    # Under autocast x may be in half precision where the weights are not.
    x = x.to(norm.weight.dtype)
    if isinstance(norm, nn.LayerNorm):
        return norm(x)
    return group_norm(_channels_first(x), norm).permute(0, 2, 3, 1)


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)
