"""Names of upsamplers: how a config's ``dict(type='DySample')`` becomes a module."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from torch import nn

from mmdysample.errors import InvalidType, InvalidValue

T = TypeVar("T", bound=type)

# Keys of ``upsample_cfg`` in configs of OpenMMLab, which configs that build on these inherit.
OF_UPSTREAM = frozenset(
    {
        *("mode", "align_corners", "scale_factor", "up_kernel", "up_group", "encoder_kernel"),
        *("encoder_dilation", "compressed_channels"),
    }
)
LEAST_PART = 3  # characters that a part of a name must have to tell anything

_UPSAMPLERS: dict[str, type[nn.Module]] = {}
_FOLLOWERS: list[Callable[[type[nn.Module]], None]] = []


def register_upsampler(cls: T) -> T:
    """Class decorator that makes an upsampler known under its class name.

    A class that was defined again, as by a notebook cell that runs twice, takes its own place.
    """
    before = _UPSAMPLERS.get(cls.__name__, cls)
    if not is_same_definition(before, cls):
        raise InvalidValue(
            f"an upsampler named {cls.__name__!r} is registered already: "
            f"{before.__module__}.{before.__qualname__}"
        )
    _UPSAMPLERS[cls.__name__] = cls
    for follow in _FOLLOWERS:
        follow(cls)
    return cls


def is_same_definition(one: type, other: type) -> bool:
    """Whether two classes were made by the same statement, perhaps run twice."""
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def for_each_upsampler(follow: Callable[[type[nn.Module]], None]) -> None:
    """Call ``follow`` with every upsampler that is registered or will be, also again."""
    _FOLLOWERS.append(follow)
    for cls in _UPSAMPLERS.values():
        follow(cls)


def list_upsamplers() -> list[str]:
    """Names of all registered upsamplers, sorted."""
    return sorted(_UPSAMPLERS)


def get_upsampler(name: str) -> type[nn.Module]:
    """The upsampler class registered as ``name``; ValueError if there is none.

    mmengine writes ``mmdysample.DySample`` for the class that a config imports.
    """
    if isinstance(name, str) and name.startswith("mmdysample."):
        name = name.rpartition(".")[2]
    if not isinstance(name, str) or name not in _UPSAMPLERS:
        raise InvalidValue(
            f"unknown upsampler {name!r}{did_you_mean(name, _UPSAMPLERS)}; "
            f"registered are {', '.join(list_upsamplers())}"
        )
    return _UPSAMPLERS[name]


def upsampler_class(cfg: Mapping) -> type[nn.Module]:
    """The class of upsamplers that ``dict(type=..., **settings)`` names.

    Raises:
        TypeError: there is no ``type``.
        ValueError: it names no upsampler.
    """
    if not isinstance(cfg, Mapping) or "type" not in cfg:
        raise InvalidType(
            "upsample_cfg must be a dict with the key 'type', such as dict(type='DySample'), "
            f"got {cfg!r}"
        )
    kind = cfg["type"]
    cls = kind if inspect.isclass(kind) else get_upsampler(kind)
    if not hasattr(cls, "guided"):
        raise InvalidValue(
            f"type of upsample_cfg must be an Upsampler or the name of one, got {cls.__qualname__}"
        )
    return cls


def build_upsampler(
    cfg: Mapping,
    in_channels: int,
    scale_factor: int = 2,
    *,
    guide_channels: int | None = None,
) -> nn.Module:
    """Build an upsampler for a place in a model.

    Args:
        cfg: ``dict(type=..., **settings)``; ``type`` is a registered name or a class.
        in_channels: channels of the feature map to upsample.
        scale_factor: how many times larger the result is.
        guide_channels: channels of the guide that this place offers.

    The last three belong to the place, not to the config: a ``cfg`` that sets one of them to
    another value is an error.
    """
    cls = upsampler_class(cfg)
    settings = {name: value for name, value in cfg.items() if name != "type"}
    place = dict(in_channels=in_channels, scale_factor=scale_factor, guide_channels=guide_channels)
    for name, value in place.items():
        if settings.setdefault(name, value) != value:
            raise InvalidValue(
                f"upsample_cfg sets {name}={settings[name]!r}, but the model needs {value!r} here; "
                f"leave {name} out of upsample_cfg{inherited(cls.__name__, name)}"
            )
    return cls(**settings)


def inherited(kind: str, name: str) -> str:
    """What to write where an upsampler gets an argument that its config has from its base.

    That is one of upstream's, or of another upsampler, whose place this one takes.
    """
    others = (inspect.signature(cls.__init__).parameters for cls in _UPSAMPLERS.values())
    if kind not in _UPSAMPLERS or not (name in OF_UPSTREAM or any(name in one for one in others)):
        return ""
    return (
        "; where it is inherited from the config that this one builds on, write "
        f"upsample_cfg=dict(_delete_=True, type={kind!r})"
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the nearest known name, or nothing.

    Names of which one holds the other ('scale' and 'scale_factor') are nearer than any that only
    look alike ('scale' and 'style').
    """
    name = str(name).lower()
    lowered = {other.lower(): other for other in known}
    holding = [other for other in lowered if min(map(len, (name, other))) >= LEAST_PART]
    holding = [other for other in holding if name in other or other in name]
    close = difflib.get_close_matches(name, holding, n=1, cutoff=0)
    close = close or difflib.get_close_matches(name, lowered, n=1)
    return f" (did you mean {lowered[close[0]]!r}?)" if close else ""
