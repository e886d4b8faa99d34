"""DySample: upsampling by learning where to sample.

Liu, Lu, Fu, Cao: "Learning to Upsample by Learning to Sample", ICCV 2023.
"""

from __future__ import annotations

import math
from functools import partial
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor, nn

from mmdysample.errors import InvalidType, InvalidValue
from mmdysample.ops import point_sample
from mmdysample.ops.checks import finite_number, positive_int
from mmdysample.ops.precision import float32_or_more
from mmdysample.registry import register_upsampler
from mmdysample.upsamplers.base import Upsampler, one_of
from mmdysample.upsamplers.layers import Conv2d, pixel_shuffle

STYLES = ("lp", "pl")
INITIAL_POSITIONS = ("bilinear", "nearest")
INITIAL_STD = 0.001
POSITION_ROUNDING = 2**-9  # of positions up to 1/2 in bfloat16, with a margin


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
            centers, 'nearest' at the pixel center.
        initial_std: standard deviation of the initial weights of the offsets, >= 0. With 0 the
            offsets start at zero: the result is that interpolation until the upsampler is trained.
        guide_channels: accepted as every upsampler does; not used.

    Weights without biases: 2*g*s*s*C for 'lp', 2*g*C/(s*s) for 'pl'; doubled by ``dyscope``.
    """

    starts_as: ClassVar = {
        mode: dict(initial_position=mode, initial_std=0.0) for mode in INITIAL_POSITIONS
    }

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
        initial_std: float = INITIAL_STD,
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
        number = isinstance(scope_factor, Real) and not isinstance(scope_factor, bool)
        if not number or not 0 < scope_factor < math.inf:
            raise InvalidValue(f"scope_factor must be a number > 0 or None, got {scope_factor!r}")
        self.scope_factor = float(scope_factor)
        self.initial_position = one_of("initial_position", initial_position, INITIAL_POSITIONS)
        accepted = "a finite number >= 0"
        self.initial_std = float(finite_number("initial_std", initial_std, accepted, least=0))

        # What one 1x1 projection sees and makes: a pixel ('lp') or one of its sub-pixels ('pl').
        c, g, parts = self.in_channels, self.groups, self.scale_factor**2
        if c % g or (style == "pl" and c % parts):
            needs = f"groups={g}" + (f" and by scale_factor^2={parts}" if style == "pl" else "")
            raise InvalidValue(f"in_channels must be divisible by {needs}, got {c}")
        projection = (c, 2 * g * parts) if style == "lp" else (c // parts, 2 * g)
        self.offset = Conv2d(*projection, 1, init=partial(nn.init.normal_, std=self.initial_std))
        if dyscope:
            self.scope = Conv2d(*projection, 1, bias=False, init=nn.init.zeros_)
        self.register_buffer("init_pos", self._initial_positions())

    def init_weights(self) -> None:
        """Start close to the initial positions, or exactly there with ``initial_std=0``.

        The weights of the offsets are normal with a standard deviation of ``initial_std`` and a
        dynamic scope starts at one half, so the offsets of a pixel are normal with 0.25 *
        ``initial_std`` * |x| input pixels, |x| being the Euclidean norm of the channels that their
        projection sees: all C of the pixel for 'lp', C/(s*s) for 'pl'. (0.25 is the default factor,
        static or dynamic.)

        Weights of zero are trained as others are: their gradient is ``x`` times that of the
        offsets. Those of a dynamic scope, which multiplies offsets of zero, get none at the first
        step and begin at the second.
        """
        super().init_weights()
        self.init_pos.copy_(self._initial_positions(self.init_pos.device))

    def upsample(self, x: Tensor, guide: None, size: tuple[int, int]) -> Tensor:
        return point_sample(x, self.sampling_offset(x), self.scale_factor, self.groups)

    def _intermediate_maps(self, x: Tensor, guide: None) -> dict[str, Tensor]:
        move = self.sampling_offset(x) - self.init_pos
        return {"offset": pixel_shuffle(move, self.scale_factor)}

    def sampling_offset(self, x: Tensor) -> Tensor:
        """Where the points lie, in input pixels from the pixel's center: Eq. (4) or (5).

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
            # a point has four neighbors, their weights are shared by a group's channels
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

    def _initial_positions(self, device: torch.device | None = None) -> Tensor:
        return initial_positions(self.initial_position, self.scale_factor, self.groups, device)

    def _apply(self, fn, *args, **kwargs):
        # Sampling positions stay float32 when the weights are made half precision.
        before = self.init_pos
        super()._apply(fn, *args, **kwargs)
        if self.init_pos.dtype in (torch.float16, torch.bfloat16):
            self.init_pos = before.to(self.init_pos.device)
        return self

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        saved = state_dict.get(prefix + "init_pos")
        if isinstance(saved, Tensor) and saved.shape == self.init_pos.shape:
            self._check_initial_positions(saved, prefix)
            # Equal but for the rounding of a half-precision checkpoint, which is not taken over.
            dtype = float32_or_more(saved.dtype)
            state_dict[prefix + "init_pos"] = self._initial_positions(saved.device).to(dtype)
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

    def _check_initial_positions(self, saved: Tensor, prefix: str) -> None:
        """InvalidValue if a checkpoint was made with other initial positions than these."""
        if saved.is_meta or self._starts_at(saved, self.initial_position):
            return
        ours = f"this DySample has initial_position={self.initial_position!r}"
        for name in INITIAL_POSITIONS:
            if self._starts_at(saved, name):
                raise InvalidValue(
                    f"the checkpoint's {prefix}init_pos is that of initial_position={name!r}, but "
                    f"{ours}; set initial_position={name!r}, or preserve=True where "
                    "swap_upsampling or UpsampleModel builds it, to use the checkpoint"
                )
        accepted = " or ".join(map(repr, INITIAL_POSITIONS))
        raise InvalidValue(
            f"the checkpoint's {prefix}init_pos is of no known initial_position ({accepted}), and "
            f"{ours}; the checkpoint cannot be used"
        )

    def _starts_at(self, saved: Tensor, name: str) -> bool:
        expected = initial_positions(name, self.scale_factor, self.groups, saved.device)
        return bool(((saved.double() - expected).abs() <= POSITION_ROUNDING).all())

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, style={self.style!r}, groups={self.groups}, "
            f"dyscope={self.dyscope}, scope_factor={self.scope_factor}, "
            f"initial_position={self.initial_position!r}"
            + (f", initial_std={self.initial_std}" if self.initial_std != INITIAL_STD else "")
        )


def initial_positions(
    name: str, scale_factor: int, groups: int, device: torch.device | None = None
) -> Tensor:
    """One of INITIAL_POSITIONS, (1, 2*g*s*s, 1, 1), ordered as the offsets."""
    s = scale_factor
    if name == "nearest":
        return torch.zeros(1, 2 * groups * s * s, 1, 1, device=device)
    center = (torch.arange(s, device=device) - (s - 1) / 2) / s
    y, x = torch.meshgrid(center, center, indexing="ij")
    points = torch.stack((x, y)).unsqueeze(1).expand(2, groups, s, s)
    return points.reshape(1, -1, 1, 1).contiguous()
