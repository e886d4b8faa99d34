"""What a swapped model runs: calls of `F.interpolate` that lead to upsamplers, and their guides.

A module whose `forward` calls `F.interpolate` gets a subclass of its class (as FSDP2 and
`torch.nn.utils.parametrize` do), so that names, methods and `isinstance` stay. The subclass notes
each running forward in a `Frame`, on a stack that every thread has for itself; frames live as long
as their forward, and nothing else is remembered between modules.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmdysample.errors import InvalidValue
from mmdysample.upsamplers.base import Upsampler

CHILD = "upsampling"
"""Name of the child that holds the upsamplers of a module's calls, by their number."""


@dataclass
class Plan:
    """What is to be done while a module's forward runs.

    Attributes:
        module: its name in the model.
        calls: how many calls of `F.interpolate` its forward makes itself.
        swapped: numbers of those that lead to `upsampling.<number>`.
        input_guides: site -> where among the arguments of this forward its guide is, as keys that
            lead from ``(args, kwargs)`` to it.
    """

    module: str
    calls: int = 0
    swapped: tuple[int, ...] = ()
    input_guides: dict[str, tuple] = field(default_factory=dict)


class Frame:
    """One running forward of a module: how far it is, and the guides that it has met."""

    def __init__(self, owner: nn.Module, args: tuple, kwargs: dict) -> None:
        self.owner = owner
        self.plan: Plan = owner._upsampling_plan
        self.calls = 0
        self.differentiates = torch.is_grad_enabled()
        self.guides: dict[str, Tensor] = {}
        for site, path in self.plan.input_guides.items():
            value = value_at((args, kwargs), path)
            if value is not None:
                self.guides[site] = value

    def interpolate(self, *args, **kwargs) -> Tensor:
        """`F.interpolate`, or the upsampler that is in the place of this call."""
        number = self.calls
        self.calls += 1
        if number not in self.plan.swapped:
            return F.interpolate(*args, **kwargs)
        if self.differentiates and not torch.is_grad_enabled():
            raise InvalidValue(
                f"{self.plan.module} calls F.interpolate where no gradient is recorded, as "
                "reentrant activation checkpointing does; checkpoint the whole module, or leave "
                "this site out of targets"
            )
        return self._upsample(number, *args, **kwargs)

    def _upsample(
        self,
        number: int,
        input: Tensor,
        size: int | Sequence[int] | None = None,
        scale_factor: float | Sequence[float] | None = None,
        *args,
        **kwargs,
    ) -> Tensor:
        upsampler = getattr(self.owner, CHILD)[str(number)]
        try:
            return upsampler(input, size=_size_of_call(input, size, scale_factor))
        except InvalidValue as error:
            raise InvalidValue(
                f"{self.plan.module} calls F.interpolate (call {number}) as it did not with the "
                f"example: {error}"
            ) from error

    def check_calls(self) -> None:
        """InvalidValue unless the forward that ends has made the calls of the dry run."""
        if self.plan.swapped and self.calls != self.plan.calls:
            raise InvalidValue(
                f"{self.plan.module} called F.interpolate {self.calls} times, but "
                f"{self.plan.calls} times with the example, in evaluation mode: it is not known "
                "which upsampler stands for which call; swap with an example and forward= that "
                f"take this path, or leave {self.plan.module} out of targets"
            )


def _size_of_call(
    x: Tensor, size: int | Sequence[int] | None, scale_factor: float | Sequence[float] | None
) -> Sequence[int]:
    """The (h, w) that a call of `F.interpolate` asks for."""
    if size is not None:
        return size if isinstance(size, Sequence) else (size, size)  # NumPy's integers, too
    factors = scale_factor if isinstance(scale_factor, (list, tuple)) else (scale_factor,) * 2
    return tuple(
        # in graphs lengths are symbols or tensors, and stay so
        n * int(factor) if factor == int(factor) else int(n * factor)
        for n, factor in zip(x.shape[2:], factors, strict=True)
    )


class _Frames(threading.local):
    def __init__(self) -> None:
        self.stack: list[Frame] = []


_frames = _Frames()


class _Redirect(TorchFunctionMode):
    """Leads the calls of `F.interpolate` that ``frame``'s own forward makes to it."""

    def __init__(self, frame: Frame) -> None:
        super().__init__()
        self.frame = frame

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.interpolate and _frames.stack[-1] is self.frame:
            return self.frame.interpolate(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


class _Swapped(nn.Module):
    """What the subclasses that `swapped_class` makes have in common."""

    _plain_class: type[nn.Module]
    _upsampling_plan: Plan | None = None

    def forward(self, *args, **kwargs):
        if self._upsampling_plan is None:
            return super().forward(*args, **kwargs)
        frame = Frame(self, args, kwargs)
        _frames.stack.append(frame)
        try:
            if frame.plan.swapped:
                with _Redirect(frame):
                    result = super().forward(*args, **kwargs)
            else:
                result = super().forward(*args, **kwargs)
        finally:
            _frames.stack.pop()
        frame.check_calls()
        return result

    def __reduce_ex__(self, protocol):
        # Pickle finds the model's own class by its name, and not this one.
        make, arguments, *rest = super().__reduce_ex__(protocol)
        plain = type(self)._plain_class
        call = tuple(plain if part is type(self) else part for part in (make, *arguments))
        return (_make, call, *rest)


class _Initialized(_Swapped):
    """For models with mmengine's `init_weights`, which initializes layers by their classes."""

    def init_weights(self, *args, **kwargs) -> None:
        """The model's own, then that of each upsampler which it has not loaded from a file."""
        done = getattr(self, "is_init", False)
        upsamplers = [module for module in self.modules() if isinstance(module, Upsampler)]
        with _loaded(upsamplers) as loaded:
            super().init_weights(*args, **kwargs)
        for upsampler in upsamplers:
            if not done and upsampler not in loaded:
                upsampler.init_weights()


@contextlib.contextmanager
def _loaded(modules: Sequence[nn.Module]) -> Iterator[set[nn.Module]]:
    """Those of ``modules`` that entries of a state dict are loaded into meanwhile."""
    loaded: set[nn.Module] = set()

    def note(module, state_dict, prefix, *args) -> None:
        if any(name.startswith(prefix) for name in state_dict):
            loaded.add(module)

    # its public name is of torch 2.5
    hooks = [module._register_load_state_dict_pre_hook(note, True) for module in modules]
    try:
        yield loaded
    finally:
        for hook in hooks:
            hook.remove()


@functools.cache
def swapped_class(cls: type[nn.Module]) -> type[nn.Module]:
    """The subclass of ``cls`` that modules in a swapped model get."""
    base = _Initialized if hasattr(cls, "init_weights") else _Swapped

    @functools.wraps(cls.forward)  # exporters read the names of its arguments
    def forward(self, *args, **kwargs):
        return base.forward(self, *args, **kwargs)

    ours = issubclass(cls, (Upsampler, UpsamplersByWidth))
    name = cls.__name__ if ours else f"Upsampled{cls.__name__}"
    members = {"__module__": cls.__module__, "forward": forward, "_plain_class": cls}
    return type(cls)(name, (base, cls), members)


def _make(make: Callable[..., nn.Module], *arguments) -> nn.Module:
    """A copy, as the model's own class makes it, in the subclass."""
    module = make(*arguments)
    if not is_swapped(module):
        module.__class__ = swapped_class(type(module))
    return module


def is_swapped(module: nn.Module) -> bool:
    """Whether `swap_upsampling` has given this module its class."""
    return isinstance(module, _Swapped)


class UpsamplersByWidth(nn.ModuleDict):
    """In the place of one upsampling that is called with several numbers of channels."""

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        width = str(int(x.shape[1]))  # in a graph that is traced, lengths are tensors
        if width not in self:
            raise InvalidValue(
                f"a map of {width} channels, where those of the example had {' or '.join(self)}"
            )
        chosen = self[width]
        return chosen(x, size=size)


class RememberGuide:
    """Forward hook of a module whose output guides ``site``: kept by the forward of ``plan``.

    Whose forward that is, is told by the plan itself, and not by names: a model may run parts of
    its own copy, as of a teacher, which have a plan of their own.
    """

    def __init__(self, site: str, plan: Plan) -> None:
        self.site = site
        self.plan = plan

    def __call__(self, module: nn.Module, args: tuple, output: Any) -> None:
        frame = _frame_of(self.plan)
        if frame is None:
            return
        if frame.differentiates and not torch.is_grad_enabled():
            raise InvalidValue(
                f"the guide of {self.site} is computed where no gradient is recorded, as "
                "reentrant activation checkpointing does; checkpoint with "
                "use_reentrant=False, or name another module in guides"
            )
        frame.guides[self.site] = output


class TakeGuide:
    """Forward pre-hook of the guided upsampler of ``site``: adds the guide that ``plan`` has met.

    A guide that is overwritten next, by ``guide += upsampled``, is copied: the backward pass needs
    it as it was.
    """

    def __init__(self, site: str, plan: Plan, copies: bool = False) -> None:
        self.site = site
        self.plan = plan
        self.copies = copies

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        frame = _frame_of(self.plan)
        guide = None if frame is None else frame.guides.get(self.site)
        if guide is not None:
            return args, {**kwargs, "guide": guide.clone() if self.copies else guide}
        if frame is not None and self.site in self.plan.input_guides:
            raise InvalidValue(
                f"{self.site} has met no guide: with the example it was an argument of "
                f"{self.plan.module}, which is not passed now, or not in the same manner"
            )
        raise InvalidValue(
            f"{self.site} has met no guide: the module that computes it has not run in this "
            "forward (where activations are checkpointed, both must be in one checkpoint)"
        )


def _frame_of(plan: Plan) -> Frame | None:
    """The innermost of the running forwards that have this plan."""
    return next((frame for frame in reversed(_frames.stack) if frame.plan is plan), None)


def value_at(values: Any, path: Sequence) -> Any:
    """What lies at the end of ``path`` in nested sequences and mappings; None if there is none."""
    for key in path:
        if isinstance(values, Mapping):
            values = values.get(key)
        elif isinstance(values, (list, tuple)) and isinstance(key, int):
            values = values[key] if key < len(values) else None
        else:
            values = getattr(values, str(key), None)
    return values
