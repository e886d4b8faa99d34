"""What a host takes the place of, in the configs that a config builds on.

``type='UpsampleFPN'`` over a base config's PAFPN merges into an FPN, whose arguments are the same:
nothing fails, the bottom-up path is gone, and the merged config does not tell. So the base configs
are read again, and each host is compared with what stands at its place there.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine import registry
from mmengine.config import Config
from mmengine.fileio import load

from mmdysample.engine.checks.parts import Part, advise, has_host, host_named, upstream_of
from mmdysample.engine.lookup import class_of
from mmdysample.errors import UserError

# FPN_CARAFE has upsampling layers of its own, which an argument of UpsampleFPN takes the place of.
_OF_FPN_CARAFE = (
    "write neck=dict(_delete_=True, type='UpsampleFPN', top_down_extra_levels=True, ...) with the "
    "in_channels, out_channels and num_outs of that neck"
)


def check_hosts(cfg: Config, parts: list[Part]) -> None:
    """Raise UserError for a host in the place of another class than the one that it is made for.

    ``_delete_=True`` at or above that place says that it is meant. Configs that import each other
    (``read_base()``) are not compared: there a new ``type`` among old arguments is rare.
    """
    hosts = [part for part in parts if upstream_of(part.cls) is not None]
    if not hosts or not os.path.isfile(cfg.filename or ""):
        return
    files: dict[str, Config] = {}
    for host in hosts:
        _check_place(host, None, [cfg.filename], cfg.get("default_scope"), files)


def _check_place(
    host: Part, child: str | None, paths: list[str], scope: str | None, files: dict[str, Config]
) -> None:
    """Compare a host of the config ``child`` with what its bases ``paths`` have at its place.

    Args:
        host: the part of the merged config.
        child: None for the command line, of which a config file is the base.
        paths: files of configs.
        scope: where types are looked up first.
        files: those that were read already, by path.
    """
    keys = re.findall(r"[^.\[\]]+", host.place)
    for path in paths:
        if path not in files:
            files[path] = Config.fromfile(path, import_custom_modules=False)
        before = _at(files[path], keys)
        if isinstance(before, (list, tuple)):
            _refuse_list(host, before, path)
        if not isinstance(before, Mapping) or "type" not in before:
            continue
        cls = class_of(registry.MODELS, before["type"], before.get("_scope_") or scope)
        if cls is host.cls:
            _check_place(host, path, _bases_of(path), scope, files)
        elif cls is None or cls.__name__ in (host.cls.__name__, upstream_of(host.cls).__name__):
            continue  # mmdet's and mmseg's are alike
        elif not _deletes(child, keys):
            _refuse(host, cls, path)


def _bases_of(path: str) -> list[str]:
    """The files that `_base_` of a config file names."""
    return [Config._get_cfg_path(base, path)[0] for base in Config._get_base_files(path)]


def _at(value: Any, keys: Sequence[str]) -> Any:
    """What stands at a place in a config; None if there is no such place."""
    for key in keys:
        if isinstance(value, (list, tuple)) and key.isdigit():
            value = value[int(key)] if int(key) < len(value) else None
        else:
            value = value.get(key) if isinstance(value, (Mapping, Config)) else None
    return value


def _deletes(path: str | None, keys: Sequence[str]) -> bool:
    """Whether a config file itself has ``_delete_=True`` at a place or above it.

    Where the place is computed, a ``_delete_`` anywhere in the file is taken for that.
    """
    if path is None or "_delete_" not in _text(path):
        return False
    if not path.endswith(".py"):
        own = load(path)
        above = [_at(own, keys[: n + 1]) for n in range(len(keys))]
        return any(isinstance(one, Mapping) and "_delete_" in one for one in above)
    variables = _variables(path)
    items = variables
    for key in keys:
        value = items.get(key)
        items = _items(variables.get(value.id) if isinstance(value, ast.Name) else value)
        if not items or None in items or "_delete_" in items:
            return True
    return False


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _variables(path: str) -> dict[str | None, ast.expr]:
    """What a config file of Python assigns at its top, by name."""
    return {
        target.id: statement.value
        for statement in ast.parse(_text(path)).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }


def _items(value: ast.expr | None) -> dict[str | None, ast.expr]:
    """Keys and values of ``dict(...)`` or ``{...}`` in a config file; None for computed keys."""
    if isinstance(value, ast.Call):
        items = {keyword.arg: keyword.value for keyword in value.keywords}
        computed = value.args or not isinstance(value.func, ast.Name) or value.func.id != "dict"
        return {**items, None: value} if computed else items
    if isinstance(value, ast.Dict):
        return {
            key.value if isinstance(key, ast.Constant) else None: one
            for key, one in zip(value.keys, value.values, strict=True)
        }
    return {}


def _refuse(host: Part, cls: type, path: str) -> None:
    """Raise UserError: at the host's place ``path`` has a ``cls``, which it is not made for."""
    if "[" in host.place and not has_host(cls):
        return  # a list replaces the whole list of the base config: its items were all chosen
    advice = _OF_FPN_CARAFE if cls.__name__ == "FPN_CARAFE" else advise(host, cls)
    if "[" not in host.place and "_delete_" not in advice:
        advice += (
            f", or {host.place.rpartition('.')[2]}=dict(_delete_=True, "
            f"type={host.settings['type']!r}, ...) if nothing of that is to stay"
        )
    raise UserError(
        f"{host.place}: {host.cls.__name__} takes the place of {upstream_of(host.cls).__name__}, "
        f"but {os.path.basename(path)} has {cls.__name__} there: {advice}"
    )


def _refuse_list(host: Part, before: Sequence, path: str) -> None:
    """Raise UserError: at the host's place ``path`` has a list of parts."""
    raise UserError(
        f"{host.place}: {os.path.basename(path)} has a list there, which one {host.cls.__name__} "
        f"would replace: {_advise_list(host.place, before)}"
    )


def check_lists(path: str) -> None:
    """Raise UserError if a config, or one that it builds on, has a dict where its base has a list.

    mmengine does not merge these, and advises to delete the list as a whole. What else cannot be
    read raises what mmengine raises.
    """
    if not path.endswith(".py"):
        return
    for base in _bases_of(path):
        check_lists(base)
        before = Config.fromfile(base, import_custom_modules=False)
        for place, listed in _dicts_over_lists(_variables(path), before):
            raise UserError(
                f"config {path}: {place} is a dict, but {os.path.basename(base)} has a list there: "
                f"{_advise_list(place, listed)}"
            )


def _dicts_over_lists(
    items: Mapping[str | None, ast.expr], before: Mapping | Config, above: str = ""
) -> Iterator[tuple[str, Sequence]]:
    """Places of dicts among ``items`` where ``before`` has a list, and the lists."""
    for key, expression in items.items():
        value, inner, place = before.get(key), _items(expression), f"{above}{key}"
        if inner and isinstance(value, (list, tuple)):
            yield place, value
        elif inner and isinstance(value, Mapping):
            yield from _dicts_over_lists(inner, value, f"{place}.")


def _advise_list(place: str, before: Sequence) -> str:
    """How a config is written that gives hosts to the list ``before`` of its base, at a place."""
    hosts = [host_named(one.get("type")) if isinstance(one, Mapping) else None for one in before]
    names = [None if host is None else host.__name__ for host in hosts]
    key = place.rpartition(".")[2]
    if len(names) > 1 and names[0] is not None and set(names) == {names[0]}:
        each = f"dict(one, type={names[0]!r}, upsample_cfg=...) for one in _base_.{place}"
        return f"write {key}=[{each}]"
    items = [
        item if name is None else f"dict({item}, type={name!r}, upsample_cfg=...)"
        for name, item in zip(
            names, (f"_base_.{place}[{n}]" for n in range(len(names))), strict=True
        )
    ]
    return f"write {key}=[{', '.join(items)}]"
