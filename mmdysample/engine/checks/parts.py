"""Every ``type`` in a config names something, and its other keys are arguments of what it names.

A part is a dict with a ``type``. What cannot be decided before it is built is let pass, such as
keys of a class that hands its ``**kwargs`` on to where nobody knows: building it raises then,
as an upsampler does for any argument that it does not take (upsamplers/base.py).
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

from mmengine import registry
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch.utils.data import DataLoader

from mmdysample.engine.lookup import class_of
from mmdysample.errors import UserError
from mmdysample.registry import did_you_mean, inherited, list_upsamplers
from mmdysample.upsample_model import (
    ARGUMENTS,
    UpsampleModel,
    check_settings,
    not_a_model,
    original_model,
)

FAMILIES = ("mmdet", "mmseg")
# Their classes build what they are given from the registries; others may do with it as they like.
KNOWN_PACKAGES = ("mmdysample", "mmcv", "mmdet", "mmengine", "mmseg", "torch")
REGISTRIES = (
    *(registry.MODELS, registry.TASK_UTILS, registry.WEIGHT_INITIALIZERS),
    *(registry.TRANSFORMS, registry.DATASETS, registry.DATA_SAMPLERS),
    *(registry.METRICS, registry.EVALUATOR, registry.LOOPS, registry.HOOKS),
    *(registry.OPTIM_WRAPPERS, registry.OPTIMIZERS, registry.PARAM_SCHEDULERS),
    *(registry.VISUALIZERS, registry.VISBACKENDS, registry.LOG_PROCESSORS),
)
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
# What stands under these keys is built from a registry as it stands. Elsewhere a type may be
# something else, such as a function of mmcv, and some keys may be for the class around it: there
# only a misspelt name is refused.
_BUILT = (
    *("model", "backbone", "neck", "rpn_head", "roi_head", "bbox_head", "mask_head"),
    *("decode_head", "auxiliary_head", "dataset", "pipeline", "sampler"),
    *("optim_wrapper", "optimizer", "param_scheduler", "custom_hooks", "visualizer"),
    *("train_cfg", "val_cfg", "test_cfg", "val_evaluator", "test_evaluator", *LOADERS),
)
# What stands under these is named in a registry, too; mmcv's builders take keys of their own.
_NAMED = (*_BUILT, "of", "loss_decode", "norm_cfg", "act_cfg", "conv_cfg")
# What is built where no type is given.
_DEFAULTS = {**dict.fromkeys(LOADERS, DataLoader), "optim_wrapper": OptimWrapper}
# Keys that are taken out before a class gets the others.
_OF_BUILDERS = {
    *("type", "_scope_", "priority", "by_epoch", "constructor", "paramwise_cfg"),
    *("convert_to_iter_based", "dataset", "num_batch_per_epoch"),
}
# How alike two names are of which one is a misspelling of the other.
MISSPELT = 0.85


class Part(NamedTuple):
    """A dict with a type in a config."""

    #: such as ``model.backbone``
    place: str
    settings: Mapping
    cls: Any

    def get(self, name: str) -> Any:
        """The value of an argument: the config's, else the default of the class, else None."""
        return self.settings.get(name, arguments(self.cls)[0].get(name))


def find_parts(cfg: Config, top_level_keys: Iterable[str]) -> list[Part]:
    """The parts below the keys ``top_level_keys`` of a config.

    Raises:
        UserError: a type names nothing.
    """
    scope = cfg.get("default_scope")
    return [part for top in top_level_keys for part in _parts(top, cfg.get(top), scope)]


def check_parts(cfg: Config, top_level_keys: Iterable[str]) -> list[Part]:
    """`find_parts`, and `check_keys` of them."""
    parts = find_parts(cfg, top_level_keys)
    check_keys(parts)
    return parts


def check_keys(parts: Iterable[Part]) -> None:
    """Raise UserError for a part that has a key that its class does not take."""
    for part in parts:
        if part.cls is UpsampleModel:
            check_settings(part.settings)
        _check_upsampler(part)
        _check_arguments(part)


def _parts(place: str, value: Any, scope: str | None, known: bool = True) -> Iterator[Part]:
    """The parts in ``value``, outermost first.

    Args:
        place: where ``value`` stands in the config.
        value: anything that a config can hold.
        scope: where types are looked up first.
        known: whether the class that gets ``value`` builds its parts from the registries.
    """
    inner: Iterable[tuple[str, Any]] = ()
    if isinstance(value, (list, tuple)):
        inner = [(f"{place}[{index}]", one) for index, one in enumerate(value)]
    elif isinstance(value, Mapping):
        inner = [(f"{place}.{key}", one) for key, one in value.items()]
        scope = value.get("_scope_") or scope
        cls = _find(value["type"], scope) if "type" in value else _DEFAULTS.get(place)
        if cls is UpsampleModel:
            own, value = _split(value, scope)
            yield Part(place, own, cls)
            cls = _model_behind(place, value["type"], scope)
        if cls is not None:
            yield Part(place, value, cls)
        if "type" in value:
            if cls is None and known and isinstance(value["type"], str):
                _refuse_unknown(place, value["type"], scope)
            known = package_of(cls) in KNOWN_PACKAGES
    for inner_place, one in inner:
        yield from _parts(inner_place, one, scope, known)


def _split(settings: Mapping, scope: str | None) -> tuple[dict, dict]:
    """What `UpsampleModel` takes for itself of its config, and the config of the model behind it.

    A misspelt argument is that of the one of the two that has one like it.
    """
    model = original_model(settings)
    taken = arguments(_find(model["type"], scope))[0] if model["type"] is not None else {}
    misspelt = {key for key in model.keys() - taken.keys() if is_misspelt(key, ARGUMENTS)}
    own = {key: settings[key] for key in settings.keys() & {"type", *ARGUMENTS, *misspelt}}
    return own, {key: one for key, one in model.items() if key not in misspelt}


def _model_behind(place: str, kind: Any, scope: str | None) -> Any:
    """The class that `UpsampleModel` builds; UserError if there is none or it is no model."""
    cls = _find(kind, scope)
    if cls is None and isinstance(kind, str):
        _refuse_unknown(f"{place}.of", kind, scope)
    if inspect.isclass(cls) and not issubclass(cls, BaseModel):
        raise UserError(f"{place}: {not_a_model(kind)}")
    return cls


def _find(kind: Any, scope: str | None) -> Any:
    """What a type names in any registry, None if nothing."""
    classes = (class_of(each, kind, scope) for each in REGISTRIES)
    return next((cls for cls in classes if cls is not None), None)


def _refuse_unknown(place: str, name: str, scope: str | None) -> None:
    """Raise UserError for a type that is in no registry, unless it may be something else."""
    key = "of" if _key(place) == "of" else "type"
    for family in FAMILIES:
        if "." not in name and family != scope and _find(f"{family}.{name}", scope) is not None:
            raise UserError(
                f"{place}: {name!r} belongs to {family}: write {key}='{family}.{name}', unless "
                f"default_scope of the config, {scope!r}, is wrong"
            )
    if name in list_upsamplers() or name in {host.__name__ for host in _hosts()}:
        raise UserError(
            f"{place}: {name!r} is not imported: add custom_imports = dict(imports="
            f"['mmdysample.{scope}'], allow_failed_imports=False) to the config"
        )
    package = name.partition(".")[0]
    if package != name and find_spec(package) is None:
        raise UserError(f"{place}: {name!r} needs the package {package}, which is not installed")
    names: set[str] = set()
    for each in REGISTRIES:
        with each.switch_scope_and_registry(scope) as scoped:
            names.update(scoped.module_dict, each.module_dict)
    if _key(place) in _NAMED or is_misspelt(name, names):
        raise UserError(f"{place}: type {name!r} is not registered{did_you_mean(name, names)}")


def _is_built(place: str) -> bool:
    """Whether what stands at a place is built as it stands, and from a registry."""
    return _key(place) in _BUILT


def _key(place: str) -> str:
    """The key that a place is at, or in the list at."""
    return place.rpartition(".")[2].partition("[")[0]


def is_misspelt(name: str, known: Iterable[str]) -> bool:
    """Whether a name is all but one of the known ones."""
    return bool(difflib.get_close_matches(name, known, n=1, cutoff=MISSPELT))


def package_of(cls: Any) -> str:
    """The name of the package that a class is defined in."""
    return str(getattr(cls, "__module__", "")).partition(".")[0]


def _hosts() -> list[type]:
    """The classes that give a model our upsamplers, as far as what they need is installed."""
    found = []
    for family in FAMILIES:
        if find_spec(family) is not None:
            module = importlib.import_module(f"mmdysample.{family}")
            found += [getattr(module, name) for name in module.__all__]
    return [cls for cls in found if "upsample_cfg" in arguments(cls)[0]]


def upstream_of(cls: Any) -> type | None:
    """The class that a host, which is named ``Upsample<Upstream>``, takes the place of."""
    bases = getattr(cls, "__mro__", ())
    return next((base for base in bases if cls.__name__ == f"Upsample{base.__name__}"), None)


def has_host(cls: type) -> bool:
    """Whether a host takes the place of a class."""
    return any(upstream_of(host) is cls for host in _hosts())


def host_named(upstream: Any) -> type | None:
    """The host that takes the place of the class of this name, if there is one."""
    return next((host for host in _hosts() if host.__name__ == f"Upsample{upstream}"), None)


def advise(part: Part, cls: type) -> str:
    """What to write to give ``cls``, which is or was at the place of a part, an upsampler."""
    for host in _hosts():
        if upstream_of(host) is cls:
            return f"write type='{host.__module__.split('.')[1]}.{host.__name__}'"
    if not part.place.startswith("model.") or ".roi_head" in part.place:
        return f"nothing of ours takes the place of {cls.__name__}"
    name = (part.settings.get("upsample_cfg") or {}).get("type", "DySample")
    name = name if isinstance(name, str) else name.__name__
    return (
        "write model = dict(type='UpsampleModel', of={{_base_.model.type}}, "
        f"upsample_cfg=dict(type={name!r}), targets={part.place.removeprefix('model.')!r})"
    )


def _check_upsampler(part: Part) -> None:
    """Many of upstream's classes take an ``upsample_cfg`` that means something else."""
    upsampler = part.settings.get("upsample_cfg")
    name = upsampler.get("type") if isinstance(upsampler, Mapping) else None
    if name not in list_upsamplers() or package_of(part.cls) not in FAMILIES:
        return
    raise UserError(
        f"{part.place}: {part.cls.__name__} does not take the upsampler {name!r} as upsample_cfg: "
        f"{advise(part, part.cls)}"
    )


def _check_arguments(part: Part) -> None:
    if package_of(part.cls) == "mmcv" and not _is_built(part.place):
        return  # its builders of layers take keys of their own
    ours = package_of(part.cls) == "mmdysample"
    taken, others = arguments(part.cls)
    exact = not others and (ours or _is_built(part.place))
    for key in sorted(part.settings.keys() - taken.keys() - _OF_BUILDERS):
        cut_short = ours and any(name.startswith(f"{key}_") for name in taken)
        if exact or cut_short or is_misspelt(key, taken):
            name = getattr(part.cls, "__name__", str(part.cls))
            hint = did_you_mean(key, taken) + inherited(name, key)
            raise UserError(f"{part.place}: {name} has no argument {key!r}{hint}")


def arguments(cls: Any) -> tuple[dict[str, Any], bool]:
    """The arguments that a class takes with their defaults, and whether it may take others.

    ``**kwargs`` mostly go to the ``__init__`` that comes next, but may go elsewhere or nowhere. In
    classes of ours they all go there.
    """
    functions = [cls]
    if inspect.isclass(cls):
        functions = [vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)]
    taken: dict[str, Any] = {}
    others = False
    for function in functions:
        try:
            parameters = inspect.signature(function).parameters.values()
        except (ValueError, TypeError):  # one that is written in C
            break
        for one in parameters:
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and one.name != "self":
                taken.setdefault(one.name, None if one.default is one.empty else one.default)
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            return taken, others
        others = others or package_of(function) != "mmdysample"
    return taken, True
