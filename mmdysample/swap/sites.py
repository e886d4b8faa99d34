"""The sites of a model where an upsampler can stand, and why the other ones are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.fx import GraphModule

from mmdysample.swap.dry_run import Call, Guide, Recorder, Running
from mmdysample.swap.redirect import CHILD

MODES = {"nearest": "nearest", "nearest-exact": "nearest", "bilinear": "bilinear"}
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Site:
    """An upsampling of a model.

    Attributes:
        name: where the upsampler stands in the swapped model. A module that only interpolates is
            replaced under its own name; call K of `F.interpolate` in the forward of a module leads
            to its child ``upsampling.K``. Where one or the other meets several numbers of channels
            there is a site for each: ``neck.upsample.192``.
        channels: of the map.
        scale_factor: s, or None if it is no integer, or not a constant one.
        mode: of the interpolation, such as 'nearest'.
        guide: what the result is next added to or concatenated with, if an upsampler can have it
            as its guide: the name of the module that computes it, or ``neck(0, 1)`` for the second
            element of the first argument of ``neck``.
        guide_channels: channels of the guide.
        kept: why this upsampling cannot be swapped; None if it can.
        is_output: whether the model returns the result, as where logits are resized to the image:
            then it is swapped only where ``targets`` has its name.
        owner: name of the module that makes the call.
        number: which of its calls this is; None where the owner itself is replaced.
        calls: those of the dry runs.
        guide_source: where the guide comes from.
    """

    name: str
    channels: int
    scale_factor: int | None
    mode: str
    guide: str | None = None
    guide_channels: int | None = None
    kept: str | None = None
    is_output: bool = False
    owner: str = field(default="", repr=False)
    number: int | None = field(default=None, repr=False)
    calls: tuple[Call, ...] = field(default=(), repr=False, compare=False)
    guide_source: Guide | None = field(default=None, repr=False, compare=False)

    @property
    def why_kept(self) -> str | None:
        """Why the upsampling stays as it is, unless ``targets`` has its name; None if it does."""
        if self.kept is None and self.is_output:
            return "resizes the model's output; name it in targets to swap it"
        return self.kept


class UpsamplingSites(Sequence):
    """The sites of a model, in the order in which they are reached; its text is a table.

    Attributes:
        calls: all calls of `F.interpolate` in the dry runs, also those that do not enlarge.
    """

    def __init__(self, sites: Sequence[Site], calls: Sequence[Call] = ()) -> None:
        self._sites = tuple(sites)
        self.calls = tuple(calls)

    def __getitem__(self, index):
        return self._sites[index]

    def __len__(self) -> int:
        return len(self._sites)

    def __str__(self) -> str:
        return table(self, "", [f"kept: {s.why_kept}" if s.why_kept else "" for s in self])

    __repr__ = __str__


def table(sites: Sequence[Site], title: str, last: Sequence[str]) -> str:
    """A line for each site; ``last`` is the last column."""
    rows = [("site", "channels", "ratio", "mode", "guide", title)]
    for site, text in zip(sites, last, strict=True):
        ratio = f"x{site.scale_factor}" if site.scale_factor else "-"
        guide = site.guide or "-"
        rows.append((site.name, str(site.channels), ratio, site.mode, guide, text))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def sites_of(model: nn.Module, recorders: Sequence[Recorder]) -> UpsamplingSites:
    """The upsamplings of a model, as its dry runs (the first with the example) show them."""
    modules = dict(model.named_modules())
    runs: dict[str, list[Running]] = {}
    for recorder in recorders:
        for running in recorder.runs:
            runs.setdefault(running.name, []).append(running)
    groups: dict[tuple, list[Call]] = {}  # by owner, number of the call, and channels
    for recorder in recorders:
        for call in recorder.calls:
            place = (None, None) if call.owner is None else (call.owner.name, call.number)
            groups.setdefault((*place, call.source[1]), []).append(call)
    places = [place for *place, _ in groups]

    sites = []
    for (name, number, channels), calls in groups.items():
        if calls[0].by_upsampler or not any(_enlarges(call) for call in calls):
            continue
        if name is None:
            sites.append(_site("(outside)", "", None, calls, "called outside of any forward"))
            continue
        module = modules[name]
        replaced = _is_replaced(name, module, runs[name])
        if replaced:
            kept = "the module has hooks, which would be lost" if _has_hooks(module) else None
        else:
            kept = _why_owner_keeps(name, module, runs[name])
        where = name if replaced else f"{name}.{CHILD}.{number}".removeprefix(".")
        if places.count([name, number]) > 1:
            where = f"{where}.{channels}"
        sites.append(_site(where, name, None if replaced else number, calls, kept))
    return UpsamplingSites(sites, [call for recorder in recorders for call in recorder.calls])


def _is_replaced(name: str, module: nn.Module, runs: Sequence[Running]) -> bool:
    """Whether a module does nothing but interpolate what it is given, to a multiple of its size."""
    empty = not (module._modules or module._parameters or module._buffers)
    return (
        bool(name)
        and empty
        and "forward" not in module.__dict__  # as it is again after the dry runs
        and all(running.only_interpolates for running in runs)
        and all(_is_multiple(call) for running in runs for call in running.calls)
    )


def _is_multiple(call: Call) -> bool:
    pairs = zip(call.source[2:], call.target[2:], strict=True)
    return all(after % before == 0 for before, after in pairs)


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _why_owner_keeps(name: str, module: nn.Module, runs: Sequence[Running]) -> str | None:
    """Why the calls in the forward of a module cannot be redirected."""
    owner = f"{type(module).__name__} {name}".rstrip()
    if len({len(running.calls) for running in runs}) > 1:
        return f"{owner} does not always call F.interpolate as many times"
    if isinstance(module, CONTAINERS):
        return f"called by {owner}, whose children are run one by one"
    if isinstance(module, GraphModule):
        return f"called by {owner}, a graph of torch.fx; swap the model it was made of"
    if "forward" in module.__dict__:
        return f"the forward of {owner} was set on the object"
    if hasattr(module, CHILD):
        return f"{owner} has an attribute {CHILD!r} already"
    return None


def _site(
    name: str, owner: str, number: int | None, calls: Sequence[Call], kept: str | None
) -> Site:
    first = calls[0]
    scale_factor, reason = _ratio(calls)
    reason = _why_unsupported(calls) or reason or kept
    guides = {call.guide for call in calls}
    guide = guides.pop() if len(guides) == 1 else None
    return Site(
        name=name,
        channels=first.source[1],
        scale_factor=scale_factor,
        mode=first.mode,
        guide=None if guide is None else str(guide),
        guide_channels=None if guide is None else guide.channels,
        kept=reason,
        is_output=any(call.is_output for call in calls),
        owner=owner,
        number=number,
        calls=tuple(calls),
        guide_source=guide,
    )


def _why_unsupported(calls: Sequence[Call]) -> str | None:
    for call in calls:
        if len(call.source) != 4:
            return f"a map of {len(call.source)} dimensions, not (B, C, H, W)"
        if not call.dtype.is_floating_point:
            return f"a map of {call.dtype}, not of floating-point values"
        if call.mode not in MODES:
            return f"mode {call.mode!r}"
        if call.align_corners:
            return "align_corners=True; learned upsamplers align pixel edges"
    return None


def _enlarges(call: Call) -> bool:
    return any(out > into for into, out in zip(call.source[2:], call.target[2:], strict=True))


def _ratio(calls: Sequence[Call]) -> tuple[int | None, str | None]:
    """The integer ratio that all calls have, or None and what they have instead."""
    everywhere = {
        pair for call in calls for pair in zip(call.source[2:], call.target[2:], strict=True)
    }
    if not _is_pooled(calls):
        fitting = [
            s
            for s in range(2, max(out for _, out in everywhere) + 1)
            if all(abs(out - s * into) < s for into, out in everywhere)
        ]
        if fitting:
            exact = [s for s in fitting if all(out == s * into for into, out in everywhere)]
            # Odd sizes fit several large ratios; the strides of models are powers of two.
            strides = [s for s in fitting if s.bit_count() == 1]
            nearest = min(
                exact or strides or fitting,
                key=lambda s: sum(abs(out - s * into) for into, out in everywhere),
            )
            return nearest, None
    ratios = {_times(call) for call in calls}
    if len(ratios) > 1:
        seen = ", ".join(sorted(ratios, key=lambda ratio: (len(ratio), ratio)))
        return None, f"its ratio changes with the image size ({seen})"
    source, target = ("x".join(map(str, s[2:])) for s in (calls[0].source, calls[0].target))
    return None, f"{source} to {target} is no integer ratio"


def _is_pooled(calls: Sequence[Call]) -> bool:
    """Whether the map has one size, whatever that of the images, but the result has not."""
    before: dict[torch.Size, set] = {}  # by the size of the images, as they differ in dry runs
    after: dict[torch.Size, set] = {}
    for call in calls:
        before.setdefault(call.images, set()).add(call.source[2:])
        after.setdefault(call.images, set()).add(call.target[2:])
    return _are_equal(before.values()) and not _are_equal(after.values())


def _are_equal(values: Iterable) -> bool:
    first, *others = values
    return all(other == first for other in others)


def _times(call: Call) -> str:
    by_axis = [f"{o / i:.3g}" for i, o in zip(call.source[2:], call.target[2:], strict=True)]
    return f"x{by_axis[0]}" if len(set(by_axis)) == 1 else f"x{'/'.join(by_axis)}"
