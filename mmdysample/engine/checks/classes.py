"""The heads of a model have the classes of the data sets that it is trained and tested on."""

from __future__ import annotations

import inspect

from mmdysample.engine.checks.parts import DATASET, KNOWN_PACKAGES, Part, package_of
from mmdysample.errors import UserError

# Heads that classify what the data set's classes name; not proposals, boundaries or identities.
HEADS = ("bbox_head", "mask_head", "panoptic_head", "decode_head", "auxiliary_head")
BINARY = ("STDCHead", "SABLHead")


def check_classes(parts: list[Part]) -> None:
    """Raise UserError for a head whose number of classes is not that of every data set."""
    if any(part.place == "model" and "language_model" in part.settings for part in parts):
        return  # classes are texts
    heads = [part for part in parts if _is_head(part)]
    for dataset in parts:
        if dataset.kind is not DATASET or {"dataset", "datasets"} & dataset.settings.keys():
            continue
        if any(base.__name__ == "BaseVideoDataset" for base in inspect.getmro(dataset.cls)):
            continue  # of more classes than a tracker follows
        own = dataset.settings.get("metainfo") or {}
        metainfo = {**(getattr(dataset.cls, "METAINFO", None) or {}), **own}
        if "classes" in own and "thing_classes" in metainfo and "thing_classes" not in own:
            continue  # the file says which of them are things
        names = metainfo.get("classes")
        if not isinstance(names, (list, tuple)):
            continue  # unknown before the data set is loaded
        things, stuff = metainfo.get("thing_classes"), metainfo.get("stuff_classes")
        for head in heads:
            wanted = dict(
                num_classes=len(names if things is None else things),
                num_things_classes=len(names if things is None else things),
                num_stuff_classes=len(stuff or ()),
            )
            _check_head(head, wanted, f"{dataset.place} ({dataset.cls.__name__})")


def _is_head(part: Part) -> bool:
    keys = [key.partition("[")[0] for key in part.place.split(".")]
    return (
        keys[0] == "model"
        and keys[-1] in HEADS
        and "rpn_head" not in keys
        and package_of(part.cls) in KNOWN_PACKAGES
        and part.cls.__name__ not in BINARY
        and not part.settings.get("class_agnostic")
    )


def _check_head(head: Part, wanted: dict[str, int], dataset: str) -> None:
    given = {name: head.settings.get(name, _default(head.cls, name)) for name in wanted}
    # Heads of panoptic models count both kinds, unless they are told one number.
    if "num_classes" in head.settings or given["num_things_classes"] is None:
        given = dict(num_classes=given["num_classes"])
    else:
        del given["num_classes"]
    for name, number in given.items():
        if number is not None and number != wanted[name]:
            what = name.removeprefix("num_").replace("_", " ")  # "stuff classes"
            raise UserError(
                f"{head.place}.{name} is {number}, but {dataset} has {wanted[name]} {what}: "
                f"set {name}={wanted[name]}"
            )


def _default(cls: type, name: str) -> int | None:
    for base in cls.__mro__[:-1]:
        if "__init__" in vars(base):
            parameter = inspect.signature(vars(base)["__init__"]).parameters.get(name)
            if parameter is not None:
                return parameter.default if isinstance(parameter.default, int) else None
    return None
