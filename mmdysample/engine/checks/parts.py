"""Every part of a config has a type that is registered, and keys that its class takes.

A part is a dict with a ``type``. What cannot be decided before it is built, such as the keys of a
class that hands its ``**kwargs`` on to nobody knows where, is let pass.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

import mmcv.ops
from mmengine import registry as registries
from mmengine.config import Config
from mmengine.registry import Registry

from mmdysample.errors import UserError
from mmdysample.registry import did_you_mean, list_upsamplers

HOSTS = ("mmdysample.mmdet", "mmdysample.mmseg")
FAMILIES = ("mmdet", "mmseg")
# These build what their classes are given with the registries.
KNOWN_PACKAGES = ("mmdysample", "mmcv", "mmdet", "mmengine", "mmseg", "torch")
# mmcv's builders of layers, activations and normalisations have keys of their own.
LAYERS = ("mmcv", "mmengine", "torch")
# What differs so little from an accepted name is a slip of the pen.
A_SLIP = 0.85
# Pixel decoders that a head puts in place, since it has to build upstream's first.
OF_THE_HEAD = ("UpsamplePixelDecoder", "UpsampleTransformerEncoderPixelDecoder")
_OF_THE_HEAD_INSTEAD = (
    "given to its head: write type='UpsampleMaskFormerHead' and upsample_cfg there, and leave the "
    "pixel_decoder as upstream has it"
)
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


class Kind(NamedTuple):
    """What is known of the parts at a place of a config."""

    registry: Registry | None
    #: arguments that are added to the config's when the part is built; None if that is not known
    given: tuple[str, ...] | None = ()
    #: keys that are taken out before the part is built
    taken_out: tuple[str, ...] = ()
    #: whether the type may be left out
    typed: bool = True


INNER = Kind(None, given=None, typed=False)
MODEL = Kind(registries.MODELS)
HEAD = Kind(registries.MODELS, given=None)
DATASET = Kind(registries.DATASETS)
TRANSFORM = Kind(registries.TRANSFORMS)
SAMPLER = Kind(registries.DATA_SAMPLERS, given=None)
METRIC = Kind(registries.METRICS)
EVALUATOR = Kind(registries.EVALUATOR, typed=False)
HOOK = Kind(registries.HOOKS, taken_out=("priority",))
LOOP = Kind(registries.LOOPS, given=None, taken_out=("by_epoch",), typed=False)
OPTIMIZER = Kind(registries.OPTIMIZERS, given=("params",))
OPTIM_WRAPPER = Kind(
    registries.OPTIM_WRAPPERS,
    given=None,
    taken_out=("constructor", "paramwise_cfg"),
    typed=False,
)
SCHEDULER = Kind(
    registries.PARAM_SCHEDULERS, given=("optimizer",), taken_out=("convert_to_iter_based",)
)
VISUALIZER = Kind(registries.VISUALIZERS, typed=False)
BACKEND = Kind(registries.VISBACKENDS, given=None)
INITIALIZER = Kind(registries.WEIGHT_INITIALIZERS, given=None, typed=False)

# Kinds of the parts at the top of a config and of those below, by their keys.
TOP = {
    "model": MODEL,
    "default_hooks": HOOK,
    "custom_hooks": HOOK,
    "visualizer": VISUALIZER,
    "log_processor": Kind(registries.LOG_PROCESSORS, typed=False),
    "optim_wrapper": OPTIM_WRAPPER,
    "param_scheduler": SCHEDULER,
    "train_cfg": LOOP,
    "val_cfg": LOOP,
    "test_cfg": LOOP,
    "val_evaluator": METRIC,
    "test_evaluator": METRIC,
}
LOADER = {
    "dataset": DATASET,
    "datasets": DATASET,
    "pipeline": TRANSFORM,
    "sampler": SAMPLER,
    "batch_sampler": SAMPLER,
}
BELOW = {
    "model": {
        "backbone": MODEL,
        "neck": MODEL,
        "decode_head": HEAD,
        "bbox_head": HEAD,
        "init_cfg": INITIALIZER,
        "rpn_head": HEAD,
        "roi_head": HEAD,
    },
    "optim_wrapper": {"optimizer": OPTIMIZER},
    "visualizer": {"vis_backends": BACKEND},
    **{loader: LOADER for loader in LOADERS},
}
BELOW_MODEL = {"init_cfg": INITIALIZER}
_REGISTRIES = (
    *(registries.MODELS, registries.TASK_UTILS, registries.WEIGHT_INITIALIZERS),
    *(registries.TRANSFORMS, registries.DATASETS, registries.DATA_SAMPLERS, registries.METRICS),
    *(registries.HOOKS, registries.OPTIMIZERS, registries.VISUALIZERS, registries.VISBACKENDS),
)


class Part(NamedTuple):
    """A dict with a type in a config."""

    #: such as ``model.backbone``
    place: str
    settings: Mapping
    cls: Any
    kind: Kind


def check_parts(cfg: Config, tops: Iterable[str]) -> list[Part]:
    """Check the parts below the keys ``tops`` of a config and return them.

    Raises:
        UserError: a type is missing or not registered, or a part has a key that its class does not
            take or lacks one that it needs.
    """
    scope = cfg.get("default_scope")
    found = [part for top in tops for part in _parts_of(top, cfg.get(top), scope)]
    for part in found:
        _check_upsampler(part, scope)
        _check_keys(part)
    return found


def _parts_of(top: str, value: Any, scope: str | None) -> Iterator[Part]:
    kind = TOP.get(top, INNER)
    if top == "default_hooks":
        for name, hook in (value or {}).items():
            yield from _parts(f"{top}.{name}", hook, kind, BELOW.get(top, {}), scope)
        return
    if isinstance(value, Mapping):
        if top.endswith("_evaluator") and "metrics" in value:
            kind = EVALUATOR
        elif top == "param_scheduler" and "type" not in value:
            kind = INNER  # those of several optimizers
    yield from _parts(top, value, kind, BELOW.get(top, {}), scope)


def _parts(
    place: str,
    value: Any,
    kind: Kind,
    below: Mapping[str, Kind],
    scope: str | None,
    known: bool = True,
) -> Iterator[Part]:
    """The parts in ``value``, outermost first.

    ``known``: whether the class that gets ``value`` is of a package that builds its parts from the
    registries.
    """
    if isinstance(value, (list, tuple)):
        for index, one in enumerate(value):
            yield from _parts(f"{place}[{index}]", one, kind, below, scope, known)
    if not isinstance(value, Mapping):
        return
    scope = value.get("_scope_") or scope
    if "type" in value:
        cls = _class_of(value["type"], kind, scope)
        if cls is None and known:
            _refuse_unknown(place, value["type"], kind, scope)
        yield Part(place, value, cls, kind)
        known = package_of(cls) in KNOWN_PACKAGES and cls.__name__ != "Albu"
    elif kind.typed:
        keys = ", ".join(map(str, value)) or "none"
        raise UserError(f"{place} in the config has no 'type'; its keys are: {keys}")
    deeper = BELOW_MODEL if below is BELOW["model"] else below
    for key, one in value.items():
        yield from _parts(f"{place}.{key}", one, below.get(key, INNER), deeper, scope, known)


def _class_of(name: Any, kind: Kind, scope: str | None) -> Any:
    """What a type names; None if nothing."""
    if not isinstance(name, str):
        return name
    for registry in _REGISTRIES if kind.registry is None else (kind.registry,):
        with registry.switch_scope_and_registry(scope) as here:
            try:
                found = here.get(name)
            except RuntimeError:  # so says mmengine of some unknown names
                found = None
        if found is not None:
            return found
    return None


def _refuse_unknown(place: str, name: str, kind: Kind, scope: str | None) -> None:
    """Raise UserError for a type that is not registered, unless it may be something else.

    Inside of a model a type may be a function of mmcv, or what the class around it makes of it:
    there only what was clearly meant for a registry is refused.
    """
    siblings = [f"{home}.{name}" for home in FAMILIES if home != scope and "." not in name]
    for sibling in siblings:
        if _class_of(sibling, kind, scope) is not None:
            raise UserError(
                f"{place}: {name!r} belongs to {sibling.partition('.')[0]}: write type={sibling!r},"
                f" unless default_scope of the config, {scope!r}, is wrong"
            )
    if name in {host.__name__ for host in our_hosts()}.union(list_upsamplers()):
        # Looked up again, now that our hosts are imported.
        known = [one for one in (name, *siblings) if _class_of(one, kind, scope) is not None]
        prefixed = known and known[0] != name
        raise UserError(
            f"{place}: {name!r} is not imported: add custom_imports = dict(imports="
            f"['mmdysample.{scope}'], allow_failed_imports=False) to the config"
            + (f" and write type={known[0]!r}" if prefixed else "")
        )
    if name.partition(".")[2] in OF_THE_HEAD or name in OF_THE_HEAD:
        raise UserError(f"{place}: {name!r} is {_OF_THE_HEAD_INSTEAD}")
    package = name.partition(".")[0]
    if package != name and find_spec(package) is None:
        raise UserError(f"{place}: {name!r} needs the package {package}, which is not installed")
    names: set[str] = set()
    for registry in _REGISTRIES if kind.registry is None else (kind.registry,):
        with registry.switch_scope_and_registry(scope) as here:
            names.update(here.module_dict, registry.module_dict)
    if kind.registry is None and (hasattr(mmcv.ops, name) or not _slip(name, names)):
        return
    what = "" if kind.registry is None else f" among the {kind.registry.name}s"
    raise UserError(f"{place}: type {name!r} is not registered{what}{did_you_mean(name, names)}")


def _slip(name: str, known: Iterable[str]) -> bool:
    return bool(difflib.get_close_matches(name, known, n=1, cutoff=A_SLIP))


def our_hosts() -> list[type]:
    """The classes of ours that a config can name, as far as what they need is installed."""
    found = []
    for name in HOSTS:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        found += [getattr(module, host) for host in module.__all__]
    return found


def package_of(cls: Any) -> str:
    return str(getattr(cls, "__module__", "")).partition(".")[0]


def _check_upsampler(part: Part, scope: str | None) -> None:
    """Many of upstream's classes take an ``upsample_cfg`` that means something else."""
    upsampler = part.settings.get("upsample_cfg")
    kind = upsampler.get("type") if isinstance(upsampler, Mapping) else None
    ours = kind in list_upsamplers()
    if not ours or package_of(part.cls) in ("mmdysample", "") or not inspect.isclass(part.cls):
        return
    if any(package_of(base) == "mmdysample" for base in part.cls.__mro__):
        return
    if package_of(part.cls) not in KNOWN_PACKAGES:
        return
    if f"Upsample{part.cls.__name__}" in OF_THE_HEAD:
        raise UserError(f"{part.place}: the upsampler of a MaskFormer is {_OF_THE_HEAD_INSTEAD}")
    hosts = [host for host in our_hosts() if part.cls in host.__mro__]
    takes = [host for host in our_hosts() if "upsample_cfg" in _arguments(host)[0]]
    names = " or ".join(_name(host, scope) for host in hosts or takes)
    raise UserError(
        f"{part.place}: {part.cls.__name__} does not take the upsampler {kind!r} as upsample_cfg: "
        f"write type={names} in its place"
    )


def _name(cls: type, scope: str | None) -> str:
    """How a config of ``scope`` names a host of ours."""
    home = cls.__module__.split(".")[1]
    return repr(cls.__name__ if home == scope else f"{home}.{cls.__name__}")


def _check_keys(part: Part) -> None:
    layer = part.kind.registry is None and package_of(part.cls) in LAYERS
    if layer or not callable(part.cls):
        return
    ours = package_of(part.cls) == "mmdysample"
    taken, needed, others = _arguments(part.cls)
    exact = not others and (ours or part.kind.given is not None)
    accepted = taken.union(part.kind.taken_out, ("type", "_scope_"))
    name = getattr(part.cls, "__name__", str(part.cls))
    for key in part.settings:
        cut_short = ours and any(known.startswith(f"{key}_") for known in taken)
        if key not in accepted and (exact or cut_short or _slip(key, taken)):
            raise UserError(
                f"{part.place}: {name} has no argument {key!r}{did_you_mean(key, taken)}"
            )
    if part.kind.given is None:
        return
    missing = [key for key in needed if key not in part.settings and key not in part.kind.given]
    if missing:
        raise UserError(f"{part.place}: {name} needs {', '.join(map(repr, missing))}")


def _arguments(cls: Callable) -> tuple[set[str], list[str], bool]:
    """Names of the arguments that a class takes, of those that it needs, and may it take others?

    ``**kwargs`` mostly go to the ``__init__`` that comes next, but may go elsewhere or nowhere.
    Ours hand all of them on and give none themselves.
    """
    if not inspect.isclass(cls):
        return _of_signature(cls)
    taken: set[str] = set()
    needed: list[str] = []
    others = False
    for number, base in enumerate(b for b in cls.__mro__[:-1] if "__init__" in vars(b)):
        names, required, open_ended = _of_signature(vars(base)["__init__"])
        if number == 0 or package_of(cls) == "mmdysample":
            needed += required
        taken |= names
        if not open_ended:
            break
        others = others or package_of(base) != "mmdysample"
    return taken, needed, others


def _of_signature(function: Callable) -> tuple[set[str], list[str], bool]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):  # one that is written in C
        return set(), [], True
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    needed = [p.name for p in named if p.default is p.empty and p.name != "self"]
    return (
        {p.name for p in named} - {"self"},
        needed,
        any(p.kind is p.VAR_KEYWORD for p in parameters),
    )
