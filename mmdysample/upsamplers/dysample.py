"""DySample: upsampling by learning where to sample.

Liu, Lu, Fu, Cao: "Learning to Upsample by Learning to Sample", ICCV 2023.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdysample.errors import InvalidType, InvalidValue
from mmdysample.ops import point_sample
from mmdysample.ops.precision import float32_or_more
from mmdysample.registry import register_upsampler
from mmdysample.upsamplers.base import Upsampler, one_of, positive_int

STYLES = ("lp", "pl")
INITIAL_POSITIONS = ("bilinear", "nearest")


@register_upsampler
class DySample(Upsampler):
    """Samples s*s points around each pixel, at positions that a 1x1 convolution of ``x`` moves.

    The paper's four variants:

    ============  =========================================
    DySample      the defaults
    DySample+     ``dyscope=True``
    DySample-S    ``style='pl', groups=8``
    DySample-S+   ``style='pl', groups=8, dyscope=True``
    ============  =========================================

    Args:
        in_channels: channels C of ``x``, divisible by ``groups``; for 'pl' also by s*s.
        scale_factor: s >= 1.
        style: 'lp' projects C channels to the 2*g*s*s offsets of a pixel; 'pl' gives each of the
            s*s sub-pixels C/(s*s) channels of its own to project, with s^4 times fewer weights
            (Fig. 6).
        groups: g, groups of channels with points of their own (Fig. 5).
        dyscope: scale each offset by a learned sigmoid ("dynamic scope factor", Eq. 5).
        scope_factor: what offsets are multiplied by (Table 2); None means the paper's 0.25, or 0.5
            with ``dyscope``, whose sigmoid starts at one half.
        initial_position: where points lie at zero offset (Table 1): 'bilinear' at the sub-pixel
            centres, 'nearest' at the pixel centre.
        guide_channels: accepted as every upsampler does; not used.

    Weights without biases: 2*g*s*s*C for 'lp', 2*g*C/(s*s) for 'pl'; doubled by ``dyscope``.
    """

    def __init__(
        self,
        in_channels: int,
        scale_factor: int = 2,
        style: str = "lp",
        groups: int = 4,
        dyscope: bool = False,
        *,
        scope_factor: float | None = None,
        initial_position: str = "bilinear",
        guide_channels: int | None = None,
    ) -> None:
        super().__init__(in_channels, scale_factor, guide_channels=guide_channels)
        self.style = one_of("style", style, STYLES)
        self.groups = positive_int("groups", groups)
        if not isinstance(dyscope, bool):
            raise InvalidType(f"dyscope must be True or False, got {dyscope!r}")
        self.dyscope = dyscope
        if scope_factor is None:
            scope_factor = 0.5 if dyscope else 0.25
        number = isinstance(scope_factor, int | float) and not isinstance(scope_factor, bool)
        if not number or not 0 < scope_factor < float("inf"):
            raise InvalidValue(f"scope_factor must be a number > 0 or None, got {scope_factor!r}")
        self.scope_factor = scope_factor
        self.initial_position = one_of("initial_position", initial_position, INITIAL_POSITIONS)

        # What one 1x1 projection sees and makes: a pixel ('lp') or one of its sub-pixels ('pl').
        parts = scale_factor**2
        if in_channels % groups or (style == "pl" and in_channels % parts):
            needs = f"groups={groups}" + (
                f" and by scale_factor^2={parts}" if style == "pl" else ""
            )
            raise InvalidValue(f"in_channels must be divisible by {needs}, got {in_channels}")
        if style == "lp":
            projection = (in_channels, 2 * groups * parts)
        else:
            projection = (in_channels // parts, 2 * groups)
        self.offset = nn.Conv2d(*projection, kernel_size=1)
        if dyscope:
            self.scope = nn.Conv2d(*projection, kernel_size=1, bias=False)
        self.register_buffer("init_pos", self._initial_positions())
        self.init_weights()

    def init_weights(self) -> None:
        """Start within a thousandth of a pixel of the initial positions."""
        nn.init.normal_(self.offset.weight, std=0.001)
        nn.init.zeros_(self.offset.bias)
        if self.dyscope:
            nn.init.zeros_(self.scope.weight)
            if self.scope.bias is not None:
                nn.init.zeros_(self.scope.bias)

    def upsample(self, x: Tensor, guide: None, size: tuple[int, int]) -> Tensor:
        return point_sample(x, self.sampling_offset(x), self.scale_factor, self.groups)

    def sampling_offset(self, x: Tensor) -> Tensor:
        """Where the points lie, in input pixels from the pixel's centre: Eq. (4) or (5).

        (B, C, H, W) -> (B, 2*g*s*s, H, W), channels ordered (axis, group, sub-row, sub-column).
        """
        dtype = float32_or_more(x.dtype)
        offset = self._project(self.offset, x).to(dtype)
        if self.dyscope:
            offset = offset * self._project(self.scope, x).to(dtype).sigmoid()
        return self.init_pos + self.scope_factor * offset

    def flops(self, height: int, width: int) -> dict[str, int]:
        s2 = self.scale_factor**2
        projections = 1 + self.dyscope
        # 'pl' applies its smaller weight to every sub-pixel
        repeats = s2 if self.style == "pl" else 1
        parts = {
            "offsets": projections * repeats * self.offset.weight.numel(),
            "scope": self.dyscope * 2 * self.groups * s2,
            # a point has four neighbours, their weights are shared by a group's channels
            "sampling": 4 * s2 * (self.in_channels + self.groups),
        }
        return {part: count * height * width for part, count in parts.items()}

    def _project(self, conv: nn.Conv2d, x: Tensor) -> Tensor:
        if self.style == "lp":
            return conv(x)
        # 'pl' as the paper draws it is: pixel-shuffle x, 1x1 convolution, pixel-unshuffle. The two
        # shuffles only move what the convolution treats alike anyway: with the s*s sub-pixels of
        # each channel stacked along the height, the same convolution needs no shuffle, and no copy.
        batch, channels, height, width = x.shape
        parts = self.scale_factor**2
        x = x.reshape(batch, channels // parts, parts * height, width)
        return conv(x).reshape(batch, 2 * self.groups * parts, height, width)

    def _initial_positions(self) -> Tensor:
        """(1, 2*g*s*s, 1, 1), ordered as the offsets."""
        s = self.scale_factor
        if self.initial_position == "nearest":
            return torch.zeros(1, 2 * self.groups * s * s, 1, 1)
        centre = (torch.arange(s) - (s - 1) / 2) / s
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        points = torch.stack((x, y)).unsqueeze(1).expand(2, self.groups, s, s)
        return points.reshape(1, -1, 1, 1).contiguous()

    def _apply(self, fn, *args, **kwargs):
        # Sampling positions stay float32 when the weights are made half precision.
        before = self.init_pos
        super()._apply(fn, *args, **kwargs)
        if self.init_pos.dtype in (torch.float16, torch.bfloat16):
            self.init_pos = before.to(self.init_pos.device)
        return self

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        # The authors' checkpoints from before March 2024 have a bias on the scope. It is kept, but
        # not trained: the optimizer may exist already and would not know of it.
        if self.dyscope and prefix + "scope.weight" in state_dict:
            bias = state_dict.get(prefix + "scope.bias")
            if bias is None:
                self.scope.bias = None
            elif self.scope.bias is None:
                self.scope.bias = nn.Parameter(
                    self.scope.weight.new_zeros(self.scope.out_channels), False
                )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, style={self.style!r}, groups={self.groups}, "
            f"dyscope={self.dyscope}, scope_factor={self.scope_factor}, "
            f"initial_position={self.initial_position!r}"
        )
