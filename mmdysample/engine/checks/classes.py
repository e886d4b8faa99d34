"""The heads of a model have as many classes as the data sets that it is trained and tested on."""

from __future__ import annotations

import inspect

from mmengine.dataset import BaseDataset

from mmdysample.engine.checks.parts import KNOWN_PACKAGES, Part, package_of
from mmdysample.errors import UserError

# Heads that classify what the data set's classes name; not proposals or identities.
HEADS = ("bbox_head", "mask_head", "panoptic_head", "decode_head", "auxiliary_head")
# Predicts boundaries, not classes.
BOUNDARY_HEAD = "STDCHead"
# Arguments of models whose classes are texts.
OF_TEXTS = {"language_model", "text_encoder"}


def check_classes(parts: list[Part]) -> None:
    """Raise UserError for a head whose number of classes is not that of every data set."""
    if any(OF_TEXTS & part.settings.keys() for part in parts):
        return
    heads = [part for part in parts if _is_head(part)]
    for dataset in parts:
        names = _class_names(dataset)
        for head in heads if names is not None else ():
            number = head.get("num_classes")
            if isinstance(number, int) and number != len(names):
                raise UserError(
                    f"{head.place}.num_classes is {number}, but {dataset.place} "
                    f"({dataset.cls.__name__}) has {len(names)} classes: set "
                    f"num_classes={len(names)}"
                )


def _is_head(part: Part) -> bool:
    keys = [key.partition("[")[0] for key in part.place.split(".")]
    return (
        keys[0] == "model"
        and keys[-1] in HEADS
        and package_of(part.cls) in KNOWN_PACKAGES
        and part.cls.__name__ != BOUNDARY_HEAD
        and not part.settings.get("class_agnostic")
    )


def _class_names(part: Part) -> list | tuple | None:
    """The classes of a data set that heads tell apart, None if it is not known before it loads."""
    if not inspect.isclass(part.cls) or not issubclass(part.cls, BaseDataset):
        return None
    if any(base.__name__ == "BaseVideoDataset" for base in part.cls.__mro__):
        return None  # of more classes than a tracker follows
    own = part.settings.get("metainfo") or {}
    metainfo = {**part.cls.METAINFO, **own}
    # Panoptic: the countable ones. If only all are named, the annotation file says which those are.
    key = "thing_classes" if "thing_classes" in metainfo else "classes"
    if "classes" in own and key not in own:
        return None
    names = metainfo.get(key)
    return names if isinstance(names, (list, tuple)) else None
