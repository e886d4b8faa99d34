"""The contract that every upsampler keeps."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdysample.errors import InvalidType, InvalidValue
from mmdysample.ops.checks import as_integer, positive_int
from mmdysample.registry import did_you_mean, get_upsampler, inherited, list_upsamplers
from mmdysample.state_dict import rename_prefix


class Upsampler(nn.Module, ABC):
    """Upsamples a feature map ``scale_factor`` times.

    A subclass implements :meth:`upsample`, which always computes exactly ``scale_factor`` times;
    sizes, guides and the checks of users' input are handled here.

    Args:
        in_channels: channels C of ``x``.
        scale_factor: integer s >= 1.
        guide_channels: channels of the guide; None means ``in_channels``.
            Only guided upsamplers use it.

    Attributes:
        guided: whether :meth:`forward` needs a guide. An unguided one takes a guide's size and
            ignores its values, so that models can always pass one.
        any_size: whether :meth:`upsample` reaches any ``size`` in one step, as fixed
            interpolations do.
        published_names: beginning of a parameter's name in its authors' module -> the name here.
            State dicts with either load.
        starts_as: mode of ``F.interpolate`` -> constructor arguments with which the upsampler
            computes the same until it is trained; see :meth:`preserving`.
    """

    guided: ClassVar[bool] = False
    any_size: ClassVar[bool] = False
    published_names: ClassVar[Mapping[str, str]] = {}
    starts_as: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __new__(cls, *args, **kwargs):
        # Here, and not in `__init__`, so that the sentence is the same whichever registry built us.
        # The tools check all of a config before it is built: engine/checks/parts.py.
        parameters = inspect.signature(cls.__init__).parameters.values()
        accepted = [p.name for p in parameters if p.name != "self"]
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        for name, value in kwargs.items():
            if name not in accepted and not takes_any:
                hint = did_you_mean(name, accepted) + inherited(cls.__name__, name)
                raise InvalidType(
                    f"{cls.__name__} has no argument {name!r} (given {value!r}){hint}; "
                    f"it accepts {', '.join(accepted)}"
                )
        return super().__new__(cls)

    def __init__(
        self, in_channels: int, scale_factor: int = 2, *, guide_channels: int | None = None
    ) -> None:
        super().__init__()
        self.in_channels = positive_int("in_channels", in_channels)
        self.scale_factor = positive_int("scale_factor", scale_factor)
        if guide_channels is None:
            guide_channels = in_channels
        self.guide_channels = positive_int("guide_channels", guide_channels)

    @classmethod
    def preserving(cls, mode: str) -> dict[str, Any]:
        """Constructor arguments with which this upsampler starts as an interpolation.

        In the place of that interpolation, where the target is exactly s times as large, it leaves
        a model's results as they were until it is trained. docs/limits.md says how exactly.

        Args:
            mode: 'nearest' or 'bilinear' (with ``align_corners=False``) of ``F.interpolate``.

        Raises:
            ValueError: this upsampler cannot start so.
        """
        if mode not in cls.starts_as:
            able = [name for name in list_upsamplers() if _starts_as(get_upsampler(name), mode)]
            raise InvalidValue(
                f"{cls.__name__} cannot start as {mode!r} interpolation; "
                f"{', '.join(able) or 'no upsampler'} can"
            )
        return dict(cls.starts_as[mode])

    @abstractmethod
    def upsample(self, x: Tensor, guide: Tensor | None, size: tuple[int, int]) -> Tensor:
        """(B, C, H, W) -> (B, C, s*H, s*W), or ``size`` if the class is ``any_size``.

        ``guide`` is (B, C_y, s*H, s*W) for guided upsamplers, else None.
        """

    def intermediate_maps(self, x: Tensor, guide: Tensor | None = None) -> dict[str, Tensor]:
        """The maps that the result for these inputs is made with, by the papers' names for them.

        ==========  =======================================================================
        'kernel'    (B, g*K*K, s*H, s*W), channels ordered (group, window row, window column)
        'gate'      (B, 1, H, W), the guide's part in the result
        'index'     (B, 1 or C, s*H, s*W), what the nearest pixel of ``x`` is multiplied by
        'offset'    (B, 2*g, s*H, s*W), channels ordered (axis x or y, group): how far sampling
                    points lie from where they start, in pixels of ``x``
        ==========  =======================================================================

        They are what :meth:`upsample` itself uses, from the same methods. Upsamplers that compute
        no such map have none.

        Args:
            x, guide: as for :meth:`forward`.

        Raises:
            TypeError, ValueError: as :meth:`forward`.
        """
        self._check_input(x)
        if not self.guided:
            return self._intermediate_maps(x, None)
        self._check_guide(x, guide)
        full = (self.scale_factor * x.shape[2], self.scale_factor * x.shape[3])
        self._target_size(full, guide, None)
        return self._intermediate_maps(x, _fit(guide, full))

    def _intermediate_maps(self, x: Tensor, guide: Tensor | None) -> dict[str, Tensor]:
        """:meth:`intermediate_maps` of inputs that are checked and fitted, as for `upsample`."""
        return {}

    def flops(self, height: int, width: int) -> dict[str, int]:
        """Cost of one sample of ``height`` x ``width``, by part of the operator.

        As in the papers' tables, a multiply-accumulate counts as one, and so does a product of two
        values alone. Constant factors, additions, activations and normalizations do not count.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what it costs")

    def init_weights(self) -> None:
        """Set every parameter and buffer to its initial value; may be called any number of times.

        Here each layer does so by its own ``reset_parameters``. A subclass with parameters or
        buffers of its own, or with other initial weights, overrides this method.
        """
        for module in self.modules():
            if module is not self and hasattr(module, "reset_parameters"):
                module.reset_parameters()

    def reset_parameters(self) -> None:
        """:meth:`init_weights` under the name that PyTorch's FSDP looks for."""
        self.init_weights()

    def forward(
        self, x: Tensor, guide: Tensor | None = None, size: Sequence[int] | None = None
    ) -> Tensor:
        """Upsample ``x``.

        Args:
            x: (B, C, H, W), floating point.
            guide: (B, C_y, h, w), a feature map at the target size.
            size: the target (h, w); defaults to the guide's, else (s*H, s*W). It may differ from
                (s*H, s*W) by less than s on an axis, as odd feature maps do. A stride-2 convolution
                rounds up (23 -> 12): 12 -> 24 is computed and its end is cropped. Other backbones
                round down (33 -> 16): 16 -> 32 is computed and its last row or column repeated.

        Returns:
            (B, C, h, w) in the dtype of ``x``.

        Raises:
            TypeError: ``x`` or a guide that is used is not floating point, or of another dtype than
                the weights.
            ValueError: wrong rank, channels, guide or size; a guided upsampler without a guide.
        """
        self._check_input(x)
        if guide is not None or self.guided:
            self._check_guide(x, guide)
        full = (self.scale_factor * x.shape[2], self.scale_factor * x.shape[3])
        size = self._target_size(full, guide, size)
        if self.any_size:
            return self.upsample(x, None, size).to(x.dtype)
        # Guide and result are both fitted at their end: pixels stay aligned.
        guide = _fit(guide, full) if self.guided else None
        # Under autocast an upsampler may end in a layer of another dtype.
        out = self.upsample(x, guide, full).to(x.dtype)
        return out if size == full else _fit(out, size)

    def _check_input(self, x: Tensor) -> None:
        name = type(self).__name__
        if not isinstance(x, Tensor):
            raise InvalidType(f"{name}: x must be a torch.Tensor, got {type(x).__name__}")
        if x.dim() != 4 or x.shape[1] != self.in_channels or x.shape[2] < 1 or x.shape[3] < 1:
            raise InvalidValue(
                f"{name}: x must be (B, {self.in_channels}, H, W), got {tuple(x.shape)}"
            )
        if not x.is_floating_point():
            raise InvalidType(
                f"{name}: x must be float16, bfloat16, float32 or float64, got {x.dtype}"
            )
        weights = list(self.parameters())
        if weights and weights[0].dtype != x.dtype and not autocast_converts(x):
            raise InvalidType(
                f"{name}: x is {x.dtype} but the weights are {weights[0].dtype}; "
                "convert one of them with .to(dtype), or use torch.autocast"
            )

    def _check_guide(self, x: Tensor, guide: Tensor | None) -> None:
        name = type(self).__name__
        if guide is None:
            raise InvalidValue(
                f"{name} is guided: forward(x, guide) needs a guide of shape "
                f"(B, {self.guide_channels}, h, w) at the target size, got None"
            )
        if not isinstance(guide, Tensor):
            raise InvalidType(f"{name}: guide must be a torch.Tensor, got {type(guide).__name__}")
        if self.guided and not guide.is_floating_point():
            raise InvalidType(f"{name}: guide must be floating point, got {guide.dtype}")
        channels = self.guide_channels if self.guided else "C"
        if (
            guide.dim() != 4
            or guide.shape[0] != x.shape[0]
            or (self.guided and guide.shape[1] != self.guide_channels)
        ):
            raise InvalidValue(
                f"{name}: guide must be ({x.shape[0]}, {channels}, h, w), got {tuple(guide.shape)}"
            )
        if self.guided and guide.dtype != x.dtype and not autocast_converts(guide):
            raise InvalidType(
                f"{name}: guide is {guide.dtype} but x is {x.dtype}; "
                "convert one of them with .to(dtype), or use torch.autocast"
            )

    def _target_size(
        self, full: tuple[int, int], guide: Tensor | None, size: Sequence[int] | None
    ) -> tuple[int, int]:
        name = type(self).__name__
        if size is not None and (
            not isinstance(size, Sequence)
            or len(size) != 2
            # in a graph that is traced, lengths are tensors
            or any(as_integer(length) is None and not isinstance(length, Tensor) for length in size)
        ):
            raise InvalidValue(f"{name}: size must be two integers (height, width), got {size!r}")
        if guide is not None:
            guide_size = (guide.shape[2], guide.shape[3])
            if size is not None and tuple(size) != guide_size:
                raise InvalidValue(
                    f"{name}: size {tuple(size)} is not the guide's size {guide_size}"
                )
            size = guide_size
        if size is None:
            return full
        size = tuple(size)
        s = self.scale_factor
        for want, have in ((size[0], full[0]), (size[1], full[1])):
            if want < 1 or (not self.any_size and not have - s < want < have + s):
                raise InvalidValue(
                    f"{name}: cannot reach size {size} from {full[0] // s, full[1] // s}: with "
                    f"scale_factor {s} the target is {full}, or differs by less than {s} on an "
                    "axis; pad the images to a multiple of the model's stride (size_divisor, in "
                    "mmdet pad_size_divisor, of the data preprocessor)"
                )
        return size

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        for theirs, ours in self.published_names.items():
            rename_prefix(state_dict, prefix + theirs, prefix + ours)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, scale_factor={self.scale_factor}"
        return f"{text}, guide_channels={self.guide_channels}" if self.guided else text


def one_of(name: str, value: str, accepted: Sequence[str]) -> str:
    """``value`` if it is among ``accepted``; ValueError naming ``name`` otherwise."""
    if value not in accepted:
        raise InvalidValue(f"{name} must be one of {', '.join(map(repr, accepted))}, got {value!r}")
    return value


def _starts_as(cls: type[nn.Module], mode: str) -> bool:
    return mode in getattr(cls, "starts_as", ())  # a registered class may be of another base


def _fit(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``x`` at ``size``: what is too much at the end is cropped, what is missing is repeated."""
    if (x.shape[2], x.shape[3]) == size:
        return x
    x = x[:, :, : size[0], : size[1]]
    below, right = size[0] - x.shape[2], size[1] - x.shape[3]
    return F.pad(x, (0, right, 0, below), mode="replicate") if below or right else x


def autocast_converts(x: Tensor) -> bool:
    """Whether autocast is on where ``x`` is, and brings it and weights to one dtype."""
    device_type = x.device.type
    if x.dtype == torch.float64:
        return False
    if _AUTOCAST_BY_DEVICE:
        available = torch.amp.is_autocast_available(device_type)
        return available and torch.is_autocast_enabled(device_type)
    if device_type == "cpu":
        return torch.is_autocast_cpu_enabled()
    return torch.is_autocast_enabled()


_AUTOCAST_BY_DEVICE = hasattr(torch.amp, "is_autocast_available")  # torch >= 2.4
