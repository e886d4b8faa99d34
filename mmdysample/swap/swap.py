"""Finds the upsamplings of a model, and puts learned upsamplers in their places."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.parameter import is_lazy

from mmdysample.errors import InvalidType, InvalidValue
from mmdysample.registry import build_upsampler, did_you_mean, upsampler_class
from mmdysample.swap.dry_run import Forward, Guide, images_for, record, run, snapshot
from mmdysample.swap.redirect import (
    CHILD,
    Plan,
    RememberGuide,
    TakeGuide,
    UpsamplersByWidth,
    is_swapped,
    swapped_class,
)
from mmdysample.swap.sites import MODES, Site, UpsamplingSites, sites_of, table
from mmdysample.upsamplers.base import Upsampler

UpsampleCfg = Mapping | Callable[[Site], Mapping | None]

_logger = logging.getLogger("mmdysample")


def find_upsampling(
    model: nn.Module, example: Tensor, *, forward: Forward | None = None
) -> UpsamplingSites:
    """Find where a model upsamples. Nothing of the model is changed.

    The model runs twice, in evaluation mode and without gradients: with ``example``, and with
    larger images (a warning is logged if it takes none: ratios may be those of this size only).

    Args:
        model: any module; on any device.
        example: an image batch, (B, C, H, W); moved to the device and dtype of the model.
        forward: called as ``forward(model, images)``, for models that need more than
            ``model(images)``. What is not run is not found.

    Returns:
        The sites; ``print(find_upsampling(model, example))`` is a table of them.

    Raises:
        TypeError, ValueError: ``model`` or ``example`` is none, or the model does not take it; the
            model is compiled, scripted, wrapped for parallel training, or was swapped already.
    """
    _check_model(model)
    if forward is not None and not callable(forward):
        raise InvalidType(
            "forward must be a function, such as lambda model, images: model.backbone(images), got "
            f"{forward!r}"
        )
    return sites_of(model, record(model, example, forward))


def swap_upsampling(
    model: nn.Module,
    upsample_cfg: UpsampleCfg,
    example: Tensor,
    *,
    targets: str | Sequence[str] | None = None,
    forward: Forward | None = None,
    preserve: bool = False,
    guides: Mapping[str, str] | None = None,
) -> nn.Module:
    """Put a learned upsampler wherever a model interpolates.

    Modules such as ``nn.Upsample`` are replaced under their own name; calls of ``F.interpolate``
    in the forward of a module lead to a child of that module (see `Site.name`). The model's own
    state-dict keys stay; the upsamplers' are added. Build the model, load its weights, swap, and
    then make the optimizer, the EMA, DDP, ``torch.compile``.

    The table of what was swapped and what was kept, and why, is logged by the logger 'mmdysample'.

    Args:
        model, example, forward: as for `find_upsampling`.
        upsample_cfg: ``dict(type='DySample')``, or a function of a `Site` that returns such a dict,
            or None for a site that stays as it is.
        targets: names of modules or sites, ``*`` allowed; everything inside is meant. None means
            the whole model.
        preserve: start so that the model computes what it computed before
            (`Upsampler.preserving`).
        guides: site -> module whose output guides it, in place of the guide that was found.

    Returns:
        ``model``, changed in place. If an error is raised it was not changed.

    Raises:
        TypeError, ValueError: as `find_upsampling`; wrong arguments; nothing to swap; an upsampler
            that does not accept the channels of a site, has no guide there, or cannot preserve.
    """
    check_arguments(upsample_cfg, targets, preserve, guides)
    sites = find_upsampling(model, example, forward=forward)
    chosen = _choose(model, sites, _as_list(targets))
    found_guides = {site.name: site.guide_source for site in sites}
    found_guides.update(_named_guides(model, sites, guides or {}))

    upsamplers: dict[str, Upsampler] = {}
    kept = {site.name: site.why_kept or "not among the targets" for site in sites}
    for site in chosen:
        cfg = upsample_cfg(site) if callable(upsample_cfg) else upsample_cfg
        if cfg is None:
            kept[site.name] = "upsample_cfg is None here"
            continue
        cls = upsampler_class(cfg)
        guide = found_guides[site.name]
        if guide is None and cls.guided:
            if _is_named(site, targets):
                raise InvalidValue(f"{_without_guide(cls, site)}; name a module in guides")
            kept[site.name] = _without_guide(cls, site)
            continue
        upsamplers[site.name] = _build(cfg, site, guide, preserve)
    for group in _by_place(sites).values():
        missing = [site.name for site in group if site.name not in upsamplers]
        for site in group if missing else ():
            if upsamplers.pop(site.name, None) is not None:
                kept[site.name] = f"{missing[0]}, which the same call reaches, is kept"
    for name in guides or {}:
        if name in upsamplers and not upsamplers[name].guided:
            raise InvalidValue(
                f"guides names the site {name!r}, but {type(upsamplers[name]).__name__} has no "
                "guide"
            )
    if not upsamplers:
        reasons = "; ".join(f"{site.name}: {kept[site.name]}" for site in sites)
        raise InvalidValue(f"no upsampling can be swapped ({reasons})")

    restore = snapshot(model)
    try:
        _install(model, sites, upsamplers, found_guides)
        _check_reached(model, images_for(model, example), forward, upsamplers)
    except BaseException:
        restore()
        raise
    last = [_becomes(upsamplers.get(site.name), kept[site.name]) for site in sites]
    _logger.info("upsampling of the model:\n%s", table(sites, "becomes", last))
    return model


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise InvalidType(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        kind = f"{type(module).__name__} {name}".rstrip()
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise InvalidValue(f"{kind} is compiled already; swap before torch.compile")
        if type(module).__module__.startswith("torch.jit"):
            raise InvalidValue(f"{kind} is scripted or traced; swap before torch.jit")
        if isinstance(module, GraphModule) and module is model:
            raise InvalidValue(f"{kind} is a graph of torch.fx; swap the model it was made of")
        if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            raise InvalidValue(f"{kind} wraps the model for parallel training; swap before")
        if any(cls.__module__.startswith("torch.distributed.fsdp") for cls in type(module).__mro__):
            raise InvalidValue(f"{kind} is sharded for parallel training; swap before")
        if any(map(is_lazy, (*module._parameters.values(), *module._buffers.values()))):
            raise InvalidValue(
                f"{kind} is lazy: its parameters get their shapes in a first forward; run the "
                "model once before"
            )
        if is_swapped(module):
            raise InvalidValue(
                f"{kind} was swapped already; build the model again and swap all in one call"
            )


def check_arguments(upsample_cfg: Any, targets: Any, preserve: Any, guides: Any) -> None:
    """Check the arguments of `swap_upsampling` as far as that needs no model.

    Raises:
        TypeError, ValueError: one is not accepted.
    """
    if isinstance(upsample_cfg, Mapping):
        upsampler_class(upsample_cfg)
    elif not callable(upsample_cfg) or isinstance(upsample_cfg, type):
        raise InvalidType(
            "upsample_cfg must be a dict such as dict(type='DySample'), or a function of a site "
            f"that returns one, got {upsample_cfg!r}"
        )
    _as_list(targets)
    if not isinstance(preserve, bool):
        raise InvalidType(f"preserve must be True or False, got {preserve!r}")
    if guides is not None and not isinstance(guides, Mapping):
        raise InvalidType(
            f"guides must be a dict, the name of a site -> the name of a module, got {guides!r}"
        )


def _as_list(targets: str | Sequence[str] | None) -> list[str] | None:
    if targets is None:
        return None
    names = [targets] if isinstance(targets, str) else targets
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise InvalidType(f"targets must be a name or a list of names, got {targets!r}")
    if not names:
        raise InvalidValue("targets is empty; leave it out to swap the whole model")
    return list(names)


def _is_named(site: Site, targets: str | Sequence[str] | None) -> bool:
    return site.name in (_as_list(targets) or ())


def _is_inside(name: str, target: str) -> bool:
    return fnmatch.fnmatchcase(name, target) or fnmatch.fnmatchcase(name, f"{target}.*")


def _choose(model: nn.Module, sites: UpsamplingSites, targets: list[str] | None) -> list[Site]:
    """The sites to swap: of those under ``targets`` the ones that can be.

    Raises:
        InvalidValue: a target that does not exist, has no site, or has only sites that are kept.
    """
    if not sites:
        raise InvalidValue(
            "the model upsamples nowhere: it made no call of F.interpolate that enlarges a map"
        )
    chosen = {}
    for target in ["*"] if targets is None else targets:
        under = [site for site in sites if _is_inside(site.name, target)]
        if not under:
            _raise_no_site(model, sites, target)
        possible = [s for s in under if s.kept is None and (not s.is_output or s.name == target)]
        if not possible:
            where = "in the model" if targets is None else f"under {target!r}"
            reasons = "; ".join(f"{site.name}: {site.why_kept}" for site in under)
            raise InvalidValue(f"no upsampling {where} can be swapped ({reasons})")
        chosen.update((site.name, site) for site in possible)
    return [site for site in sites if site.name in chosen]


def _raise_no_site(model: nn.Module, sites: UpsamplingSites, target: str) -> None:
    names = [name for name, _ in model.named_modules() if name]
    found = ", ".join(site.name for site in sites)
    if not any(_is_inside(name, target) for name in names):
        hint = did_you_mean(target, [*names, *(site.name for site in sites)])
        raise InvalidValue(
            f"targets names {target!r}, which is no module of the model{hint}; it upsamples in "
            f"{found}"
        )
    raise InvalidValue(f"no upsampling found under {target!r}; the model upsamples in {found}")


def _named_guides(
    model: nn.Module, sites: UpsamplingSites, guides: Mapping[str, str]
) -> dict[str, Guide]:
    by_name = {site.name: site for site in sites}
    names = [name for name, _ in model.named_modules()]
    found = {}
    for name, module in guides.items():
        if name not in by_name:
            hint = did_you_mean(name, by_name)
            raise InvalidValue(
                f"guides names the site {name!r}, but the sites are {', '.join(by_name)}{hint}"
            )
        if module not in names:
            hint = did_you_mean(module, names)
            raise InvalidValue(f"guides names {module!r}, which is no module of the model{hint}")
        sources = {call.guide_by(module) for call in by_name[name].calls}
        source = sources.pop()
        if sources or source is None:
            raise InvalidValue(
                f"{module} cannot guide {name}: it returns no map before it in a forward that runs "
                "both"
            )
        for call in by_name[name].calls:
            if call.shape_of_guide(module)[2:] != call.target[2:]:
                raise InvalidValue(
                    f"{module} cannot guide {name}: it returns "
                    f"{tuple(call.shape_of_guide(module))}, and the guide of a map that becomes "
                    f"{tuple(call.target)} has its height and width"
                )
        found[name] = source
    return found


def _without_guide(cls: type[nn.Module], site: Site) -> str:
    return (
        f"{cls.__name__} needs a guide, and what {site.name} is next added to or "
        "concatenated with is not there before it"
    )


def _build(cfg: Mapping, site: Site, guide: Guide | None, preserve: bool) -> Upsampler:
    """The upsampler of a site.

    Raises:
        InvalidType, InvalidValue: it cannot be built for this site, or cannot preserve.
    """
    cfg = dict(cfg)
    mode = MODES[site.mode]
    call = site.calls[0]
    try:
        if preserve:
            for name, value in upsampler_class(cfg).preserving(mode).items():
                if cfg.setdefault(name, value) != value:
                    raise InvalidValue(
                        f"upsample_cfg sets {name}={cfg[name]!r}, but preserve=True needs {value!r}"
                    )
        upsampler = build_upsampler(
            cfg,
            site.channels,
            site.scale_factor,
            guide_channels=None if guide is None else guide.channels,
        )
    except InvalidValue as error:
        raise InvalidValue(
            f"{site.name} ({site.channels} channels, x{site.scale_factor}): {error}; upsample_cfg "
            "may be a function of the site"
        ) from error
    return upsampler.to(call.device, call.weights)


def _install(
    model: nn.Module,
    sites: UpsamplingSites,
    upsamplers: Mapping[str, Upsampler],
    guides: Mapping[str, Guide | None],
) -> None:
    """Put the upsamplers into the model; everything was checked before."""
    modules = dict(model.named_modules())
    swapped = [site for site in sites if site.name in upsamplers]
    plans: dict[str, Plan] = {}

    def plan_of(name: str) -> Plan:
        return plans.setdefault(name, Plan(name or type(model).__name__))

    for (owner, number), group in _by_place(swapped).items():
        here = {site.name: upsamplers[site.name] for site in group}
        if number is None:
            _replace(model, modules[owner], _one_or_by_width(owner, here))
            continue
        plan = plan_of(owner)
        plan.calls = len(group[0].calls[0].owner.calls)
        plan.swapped = (*plan.swapped, number)
        children = modules[owner]._modules.setdefault(CHILD, nn.ModuleDict())
        children[str(number)] = _one_or_by_width(f"{owner}.{CHILD}.{number}".lstrip("."), here)
        children.train(modules[owner].training)

    # The calls of other modules that run inside such an owner are not its own.
    for call in sites.calls:
        if any(running.name in plans for running in call.stack[:-1]):
            plan_of(call.owner.name)

    modules = dict(model.named_modules())
    for site in swapped:
        guide, upsampler = guides[site.name], upsamplers[site.name]
        if guide is not None and upsampler.guided:
            plan = plan_of(guide.frame)
            if guide.module is None:
                plan.input_guides[site.name] = guide.path
            else:
                modules[guide.module].register_forward_hook(RememberGuide(site.name, plan))
            take = TakeGuide(site.name, plan, copies=any(call.overwrites for call in site.calls))
            upsampler.register_forward_pre_hook(take, with_kwargs=True)
    for name, plan in plans.items():
        modules[name].__class__ = swapped_class(type(modules[name]))
        modules[name]._upsampling_plan = plan
    for module in _initialized(model):
        if not is_swapped(module):
            module.__class__ = swapped_class(type(module))


def _initialized(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules around upsamplers that have an `init_weights`, as mmengine's have."""
    if isinstance(module, Upsampler):
        return
    if not hasattr(module, "init_weights"):
        for child in module.children():
            yield from _initialized(child)
    elif any(isinstance(inner, Upsampler) for inner in module.modules()):
        yield module


def _check_reached(
    model: nn.Module, images: Tensor, forward: Forward | None, upsamplers: Mapping[str, Upsampler]
) -> None:
    """InvalidValue unless the swapped model runs, and calls every upsampler."""
    reached = set()
    restore = snapshot(model)
    try:
        for name, upsampler in upsamplers.items():
            upsampler.register_forward_hook(lambda *_, name=name: reached.add(name))
        run(model, images, forward)
    except Exception as error:
        raise InvalidValue(
            f"the model does not run with the upsamplers {', '.join(upsamplers)} "
            f"({type(error).__name__}: {error}); name others in targets"
        ) from error
    finally:
        restore()
    for name in upsamplers:
        if name not in reached:
            raise InvalidValue(
                f"the model does not call the upsampler {name}: it holds what is replaced also "
                "outside of its modules, as in a list; leave it out of targets"
            )


def _by_place(sites: Iterable[Site]) -> dict[tuple[str, int | None], list[Site]]:
    """Sites that differ only in the number of channels, together."""
    places: dict[tuple[str, int | None], list[Site]] = {}
    for site in sites:
        places.setdefault((site.owner, site.number), []).append(site)
    return places


def _one_or_by_width(place: str, upsamplers: Mapping[str, Upsampler]) -> nn.Module:
    if [*upsamplers] == [place]:
        return upsamplers[place]
    return UpsamplersByWidth({name.rpartition(".")[2]: up for name, up in upsamplers.items()})


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever the model has ``old``, with what was hung on ``old`` from outside."""
    for name, value in old.__dict__.items():
        if not hasattr(new, name):  # a method neither
            new.__dict__[name] = value
    new.train(old.training)
    for module in model.modules():
        for name, child in module._modules.items():
            if child is old:
                module._modules[name] = new


def _becomes(upsampler: Upsampler | None, kept: str | None) -> str:
    if upsampler is None:
        return f"kept: {kept}"
    parameters = sum(parameter.numel() for parameter in upsampler.parameters())
    return f"{type(upsampler).__name__}({upsampler.in_channels}) +{parameters:,}"
