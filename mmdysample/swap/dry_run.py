"""Runs a model on example images, to see where it upsamples; the model is then as it was."""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import math
import random
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmdysample.errors import InvalidType, InvalidValue, UserError
from mmdysample.upsamplers.base import Upsampler, autocast_converts

Forward = Callable[[nn.Module, Tensor], Any]

JOINS = {"add", "add_", "__add__", "__radd__", "__iadd__", "cat", "concat", "concatenate"}
"""Names of the functions in which an upsampled map meets the one that can guide it."""
FINAL = {
    *("sigmoid", "softmax", "log_softmax", "tanh", "argmax", "clamp", "squeeze", "__getitem__"),
    *("permute", "float", "to"),
}
"""What a model does with its resized output before it returns it."""
IN_PLACE = {"add_", "__iadd__"}
LARGEST_STRIDE = 64
_logger = logging.getLogger("mmdysample")
_SIGNATURE = inspect.signature(F.interpolate)


@dataclass(frozen=True)
class Guide:
    """Where the guide of a call comes from: see `redirect.Plan`.

    Attributes:
        frame: name of the module in whose forward it is found.
        path: where among the arguments of this forward, or None.
        module: name of the module whose last output it is, or None.
        channels: its channels.
    """

    frame: str
    path: tuple | None
    module: str | None
    channels: int

    def __str__(self) -> str:
        if self.module is not None:
            return self.module
        # (args, kwargs) -> 'neck(0, 1)': of the first argument of neck the second element
        return f"{self.frame or 'model'}({', '.join(map(str, self.path[1:]))})"


class Running:
    """One run of a module's forward."""

    def __init__(self, name: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.name = name
        self.module = module
        self.arguments = len(args) + len(kwargs)
        self.inputs = [(path, weakref.ref(t)) for path, t in _tensors((args, kwargs))]
        self.calls: list[Call] = []
        # what the modules inside have returned: name -> (moment, tensor, shape)
        self.outputs: dict[str, list[tuple[int, weakref.ref, torch.Size]]] = {}
        self.only_interpolates = False

    def finish(self, output: Any) -> None:
        """Note whether this forward was one call of `F.interpolate` and nothing else."""
        self.only_interpolates = (
            self.arguments == len(self.inputs) == len(self.calls) == 1
            and self.inputs[0][1]() is self.calls[0].input()
            and output is self.calls[0].result()
        )

    def last_output(self, module: str, before: int) -> tuple[int, weakref.ref, torch.Size] | None:
        """The last output of a module inside, before the given moment."""
        earlier = [output for output in self.outputs.get(module, ()) if output[0] < before]
        return earlier[-1] if earlier else None


@dataclass(eq=False)
class Call:
    """A call of `F.interpolate` in a dry run.

    Attributes:
        images: (height, width) of the images of this dry run.
        moment: number of events before it.
        stack: the forwards that were running, outermost first.
        number: how many calls the innermost one had made before.
        source, target: shapes before and after.
        dtype: of the map.
        weights: dtype for the weights of an upsampler in its place: the map's, but under autocast
            that of the model.
        guide: what the result is next added to or concatenated with, where that can be had.
        joined: whether it was added to or concatenated with anything.
        overwrites: whether it was added to something in place.
        is_output: whether the model returned the result, or probabilities or a part of it.
    """

    images: torch.Size
    moment: int
    stack: tuple[Running, ...]
    number: int
    source: torch.Size
    target: torch.Size
    mode: str
    align_corners: bool
    dtype: torch.dtype
    weights: torch.dtype
    device: torch.device
    input: weakref.ref = field(repr=False)
    result: weakref.ref = field(repr=False)
    guide: Guide | None = None
    joined: bool = False
    overwrites: bool = False
    is_output: bool = False

    @property
    def owner(self) -> Running | None:
        return self.stack[-1] if self.stack else None

    @property
    def by_upsampler(self) -> bool:
        """Whether it is made by an upsampler that the model has already."""
        return any(isinstance(running.module, Upsampler) for running in self.stack)

    def guide_by(self, module: str) -> Guide | None:
        """The last output before this call of the module of that name, if it is (B, C, H, W)."""
        for running in reversed(self.stack):
            output = running.last_output(module, self.moment)
            if output is not None and len(output[2]) == 4:
                return Guide(running.name, None, module, output[2][1])
        return None

    def shape_of_guide(self, module: str) -> torch.Size:
        """The shape of the tensor that `guide_by` has found."""
        outputs = [running.last_output(module, self.moment) for running in reversed(self.stack)]
        return next(output[2] for output in outputs if output is not None)


class _Notes:
    """Notes about tensors, by identity, as long as these live."""

    def __init__(self) -> None:
        self._notes: dict[int, tuple[weakref.ref, Any]] = {}

    def get(self, tensor: Tensor) -> Any:
        reference, note = self._notes.get(id(tensor), (None, None))
        return note if reference is not None and reference() is tensor else None

    def set(self, tensor: Tensor, note: Any) -> None:
        self._notes[id(tensor)] = (weakref.ref(tensor), note)


class Recorder(TorchFunctionMode):
    """Notes every call of `F.interpolate`, by whose forward it is made and what its result meets.

    Attributes:
        runs: the forwards of the modules that were run, in the order of their beginnings.
        calls: the calls of `F.interpolate`.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.images = images.shape[2:]
        self.dtype = images.dtype
        self.names = {id(module): name for name, module in reversed([*model.named_modules()])}
        self.runs: list[Running] = []
        self.calls: list[Call] = []
        self._stack: list[Running] = []
        self._moment = 0
        self._upsampled = _Notes()  # result, or what was made of it -> its calls
        self._final = _Notes()  # result, or a probability or part of it -> its call
        self._same = _Notes()  # result of a call that does not enlarge -> its input

    def watch(self, module: nn.Module) -> None:
        """Note the forwards and outputs of ``module`` until its ``__dict__`` is restored."""
        name = self.names[id(module)]
        original = module.forward

        @functools.wraps(original)
        def forward(*args, **kwargs):
            running = Running(name, module, args, kwargs)
            self.runs.append(running)
            self._stack.append(running)
            try:
                result = original(*args, **kwargs)
            finally:
                self._stack.pop()
            running.finish(result)
            return result

        def note_output(module, args, output):
            if isinstance(output, Tensor):
                self._moment += 1
                for running in self._stack:
                    entry = (self._moment, weakref.ref(output), output.shape)
                    running.outputs.setdefault(name, []).append(entry)

        module.__dict__["forward"] = forward
        module.__dict__["_forward_hooks"] = module._forward_hooks.copy()
        module.register_forward_hook(note_output)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if function is F.interpolate:
            self._note_call(result, _SIGNATURE.bind(*args, **kwargs))
        elif isinstance(result, Tensor):
            self._follow(getattr(function, "__name__", ""), (args, kwargs), result)
        return result

    def finish(self, output: Any) -> None:
        """Note what the model returned."""
        for _, tensor in _tensors(output):
            call = self._final.get(tensor)
            if call is not None:
                call.is_output = True

    def _note_call(self, result: Tensor, bound: inspect.BoundArguments) -> None:
        bound.apply_defaults()
        x = bound.arguments["input"]
        self._moment += 1
        call = Call(
            images=self.images,
            moment=self._moment,
            stack=tuple(self._stack),
            number=len(self._stack[-1].calls) if self._stack else 0,
            source=x.shape,
            target=result.shape,
            mode=bound.arguments["mode"],
            align_corners=bool(bound.arguments["align_corners"]),
            dtype=x.dtype,
            weights=self.dtype if autocast_converts(x) else x.dtype,
            device=x.device,
            input=weakref.ref(x),
            result=weakref.ref(result),
        )
        self.calls.append(call)
        if self._stack:
            self._stack[-1].calls.append(call)
        self._final.set(result, call)
        self._upsampled.set(result, {call, *(self._upsampled.get(x) or ())})
        if x.shape == result.shape:
            self._same.set(result, x)

    def _follow(self, function: str, arguments: tuple, result: Tensor) -> None:
        tensors = [tensor for _, tensor in _tensors(arguments)]
        if function in FINAL and tensors and self._final.get(tensors[0]) is not None:
            self._final.set(result, self._final.get(tensors[0]))
        for call in {call for t in tensors for call in self._upsampled.get(t) or ()}:
            size = call.target[2:]
            if function in JOINS:
                partners = [
                    tensor
                    for tensor in tensors
                    if tensor.shape[2:] == size and call not in (self._upsampled.get(tensor) or ())
                ]
                if partners and not call.joined:
                    call.joined = True
                    call.overwrites = function in IN_PLACE and partners[0] is tensors[0]
                    call.guide = self._guide_among(call, partners)
            elif result.shape[2:] == size:
                self._upsampled.set(result, {call, *(self._upsampled.get(result) or ())})

    def _guide_among(self, call: Call, partners: list[Tensor]) -> Guide | None:
        """The guide that is found in the innermost of the forwards around ``call``."""
        partners = [self._same.get(t) if self._same.get(t) is not None else t for t in partners]
        for running in reversed(call.stack):
            for partner in partners:
                for path, tensor in running.inputs:
                    if tensor() is partner:
                        return Guide(running.name, path, None, partner.shape[1])
                outputs = {name: running.last_output(name, call.moment) for name in running.outputs}
                names = [
                    (output[0], name)
                    for name, output in outputs.items()
                    if output is not None and output[1]() is partner
                ]
                if names:  # of modules inside each other the outermost, which ends last
                    return Guide(running.name, None, max(names)[1], partner.shape[1])
        return None


def record(model: nn.Module, example: Tensor, forward: Forward | None) -> list[Recorder]:
    """What a model does with ``example``, and with larger images if it takes them.

    Raises:
        InvalidType, InvalidValue: ``example`` is not images, or the model does not take it.
    """
    example = images_for(model, example)
    recorders = [_record(model, example, forward)]
    larger = F.interpolate(example, size=_larger(example.shape[2:]), mode="nearest")
    try:
        recorders.append(_record(model, larger, forward))
    except InvalidValue as error:
        _logger.warning("ratios are those with images of one size, as %s", error)
    return recorders


def images_for(model: nn.Module, example: Tensor) -> Tensor:
    """``example`` on the device of the model and in its dtype; errors as `record`."""
    if not isinstance(example, Tensor):
        raise InvalidType(
            "example must be a torch.Tensor, an image batch (B, C, H, W), got "
            f"{type(example).__name__}"
        )
    if example.dim() != 4 or not all(example.shape) or not example.is_floating_point():
        raise InvalidValue(
            "example must be an image batch (B, C, H, W) of floating-point values, got "
            f"{tuple(example.shape)} of {example.dtype}"
        )
    like = next((p for p in model.parameters() if p.is_floating_point()), example)
    if example.is_meta and not like.is_meta:
        raise InvalidValue("example has no values, as it is on the device 'meta'")
    return example.detach().to(like.device, like.dtype)


def _larger(size: tuple[int, int]) -> torch.Size:
    """About 1.5 times ``size``, and a multiple of what ``size`` is a multiple of, up to 64.

    Larger by 64 at least: feature maps of any stride up to that are larger, too.
    """
    larger = [max(1.5 * side, side + LARGEST_STRIDE) for side in size]
    steps = [math.gcd(side, LARGEST_STRIDE) for side in size]
    return torch.Size(math.ceil(n / step) * step for n, step in zip(larger, steps, strict=True))


def _record(model: nn.Module, images: Tensor, forward: Forward | None) -> Recorder:
    recorder = Recorder(model, images)
    restore = snapshot(model)
    try:
        for module in model.modules():
            recorder.watch(module)
        try:
            with recorder:
                output = run(model, images, forward)
        except UserError:
            raise
        except Exception as error:
            call = "model(images)" if forward is None else "forward(model, images)"
            raise InvalidValue(
                f"{call} failed with images of {tuple(images.shape)}, made of example "
                f"({type(error).__name__}: {error}); give an example that the model takes, and "
                "where it takes more than images a function forward=lambda model, images: ..."
            ) from error
    finally:
        restore()
    recorder.finish(output)
    return recorder


def run(model: nn.Module, images: Tensor, forward: Forward | None) -> Any:
    """What the model returns in evaluation mode; random numbers are as before."""
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    python = random.getstate()
    numpy = sys.modules.get("numpy")
    of_numpy = numpy and numpy.random.get_state()
    with torch.random.fork_rng(sorted(devices)), torch.no_grad():
        try:
            model.eval()
            return model(images) if forward is None else forward(model, images)
        finally:
            random.setstate(python)
            if numpy:
                numpy.random.set_state(of_numpy)


def snapshot(model: nn.Module) -> Callable[[], None]:
    """A function that makes the modules again what they are now.

    What modules refer to is restored, also in dicts, lists and sets that are their attributes, and
    so are the flags and gradients of parameters and the values of all other tensors. The values of
    parameters are not, nor is what lies deeper, as the attributes of objects that are no modules.
    """
    modules = [(module, type(module), _copies(module.__dict__)) for module in model.modules()]
    tensors = [(t, t.detach().clone()) for module, *_ in modules for t in _plain_tensors(module)]
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]

    def restore() -> None:
        for module, cls, copies in modules:
            if type(module) is not cls:
                module.__class__ = cls
            _restore(copies)
        for parameter, requires_grad, grad in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        for tensor, value in tensors:
            # compared by value: batch norm changes its statistics without counting up `_version`
            if not torch.equal(tensor, value):
                with torch.no_grad():
                    tensor.copy_(value)

    return restore


def _copies(attributes: dict) -> list[tuple[Any, Any]]:
    """A module's ``__dict__`` and the dicts, lists and sets in it, each with a copy."""
    containers = [v for v in attributes.values() if type(v) in (dict, OrderedDict, list, set)]
    return [(container, copy.copy(container)) for container in (attributes, *containers)]


def _restore(copies: list[tuple[Any, Any]]) -> None:
    for container, before in copies:
        container.clear()
        if isinstance(container, list):
            container.extend(before)
        else:
            container.update(before)


def _plain_tensors(module: nn.Module) -> Iterator[Tensor]:
    """The tensors of a module that are no parameters."""
    for value in (*module._buffers.values(), *module.__dict__.values()):
        if isinstance(value, Tensor) and not value.is_meta:
            yield value


def _tensors(values: Any, path: tuple = (), around: tuple = ()) -> Iterator[tuple[tuple, Tensor]]:
    """The tensors in nested sequences, mappings and dataclasses, each with the keys to it.

    What holds itself is looked into once: ``around`` is what holds ``values``.
    """
    if isinstance(values, Tensor):
        yield path, values
        return
    if any(values is each for each in around):
        return
    around = (*around, values)
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _tensors(value, (*path, key), around)
    elif isinstance(values, (list, tuple)):
        for number, value in enumerate(values):
            yield from _tensors(value, (*path, number), around)
    elif is_dataclass(values) and not isinstance(values, type):
        for entry in fields(values):
            yield from _tensors(getattr(values, entry.name), (*path, entry.name), around)
