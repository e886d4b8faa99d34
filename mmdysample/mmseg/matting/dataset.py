"""Data sets of matting: images with their trimaps and alphas, and foregrounds to compose."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.fileio import load
from mmengine.logging import print_log
from mmseg.registry import DATASETS

from mmdysample.errors import InvalidType, InvalidValue

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
KINDS = dict(
    img_path="image",
    trimap_path="trimap",
    alpha_path="alpha matte",
    fg_path="foreground",
    bg_path="background",
)
# mmagic's names in its lists of samples.
_LISTED = dict(
    img_path="merged", trimap_path="trimap", alpha_path="alpha", fg_path="fg", bg_path="bg"
)


@DATASETS.register_module()
class MattingDataset(BaseDataset):
    """Images with trimaps and alphas, as models are tested on.

    The files of a sample have one name, up to the extension, in the directories of ``data_prefix``;
    or ``ann_file`` lists them as mmagic's lists do: a JSON list of dicts with the paths ``merged``,
    ``trimap`` and ``alpha``, below ``data_root``.

    Args:
        data_prefix: directories ``img_path``, ``trimap_path`` and ``alpha_path``; the last may be
            missing where there is no ground truth.
        leave_out_images: leave images out that have neither a trimap nor an alpha, in place of
            raising.
        **kwargs: as for mmengine's BaseDataset.

    Raises:
        InvalidValue: a directory cannot be read, a sample is not complete, or there is none.
    """

    def __init__(self, *args: Any, leave_out_images: bool = False, **kwargs: Any) -> None:
        self.leave_out_images = leave_out_images
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        if self.ann_file:
            keys = ("img_path", "trimap_path", "alpha_path")
            return _not_empty(self, read_sample_list(self.ann_file, self.data_root, keys))
        found = _list_directories(self, ("img_path", "trimap_path"), ("alpha_path",))
        matted = set().union(*(found[key] for key in found if key != "img_path"))
        for key, paths in found.items():
            _check_complete(matted, found, key, paths)
        alone = sorted(set(found["img_path"]) - matted)
        if alone and not self.leave_out_images:
            raise InvalidValue(
                f"{len(alone)} of {len(found['img_path'])} images in "
                f"{self.data_prefix['img_path']} have neither a trimap nor an alpha matte, "
                f"{found['img_path'][alone[0]]} the first: leave_out_images=True leaves them out"
            )
        if alone:
            print_log(
                f"{type(self).__name__}: {len(alone)} images in {self.data_prefix['img_path']} "
                "have no trimap and are left out",
                "current",
            )
        return _not_empty(self, _samples(found, matted))


@DATASETS.register_module()
class ComposedMattingDataset(BaseDataset):
    """Foregrounds with alphas, each to be put in front of a random background, to train on.

    A foreground and its alpha have one name, up to the extension, in the directories of
    ``data_prefix``. Or ``ann_file`` lists them as mmagic's lists do: a JSON list of dicts with the
    paths ``fg``, ``alpha`` and ``bg``, below ``data_root``; each foreground counts once, however
    often it is listed. Every sample that is drawn gets ``bg_path`` and ``other``, the paths of a
    second foreground and its alpha, at random.

    Args:
        data_prefix: directories ``fg_path``, ``alpha_path`` and ``bg_path``.
        **kwargs: as for mmengine's BaseDataset.

    Raises:
        InvalidValue: a directory cannot be read or has no images, a foreground has no alpha or an
            alpha no foreground, or a list names a foreground with two alphas.
    """

    backgrounds: list[str]

    def load_data_list(self) -> list[dict]:
        if self.ann_file:
            keys = ("fg_path", "alpha_path", "bg_path")
            listed = _not_empty(self, read_sample_list(self.ann_file, self.data_root, keys))
            self.backgrounds = sorted({sample.pop("bg_path") for sample in listed})
            return _each_foreground_once(listed, self.ann_file)
        found = _list_directories(self, ("fg_path", "alpha_path", "bg_path"), ())
        self.backgrounds = sorted(found.pop("bg_path").values())
        if not self.backgrounds:
            raise InvalidValue(f"there is no image in {self.data_prefix['bg_path']} (bg_path)")
        names = set().union(*found.values())
        for key, paths in found.items():
            _check_complete(names, found, key, paths)
        return _not_empty(self, _samples(found, names))

    def prepare_data(self, idx: int) -> Any:
        """The sample of an index, with a background and a second foreground, by the pipeline."""
        sample = self.get_data_info(idx)
        sample["bg_path"] = self.backgrounds[np.random.randint(len(self.backgrounds))]
        sample["other"] = self.get_data_info(np.random.randint(len(self)))
        return self.pipeline(sample)


def read_sample_list(path: str, root: str, keys: Iterable[str]) -> Iterable[dict]:
    """The samples of a JSON list in mmagic's form.

    Args:
        path: the file.
        root: the directory that the paths in it are below.
        keys: what a sample is to have: keys of `KINDS`.

    Yields:
        A dict with the path of each of ``keys``.

    Raises:
        InvalidValue: the file is no such list, or what it names is missing or not below ``root``.
        InvalidType: a sample is not a dict of texts.
    """
    if not os.path.isfile(path):
        raise InvalidValue(f"ann_file {path}: no such file")
    try:
        content = load(path, file_format="json")
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"ann_file {path} is not in JSON: {error}") from error
    samples = content.get("data_list") if isinstance(content, Mapping) else content
    if not isinstance(samples, list):
        raise InvalidValue(f"ann_file {path} is not a list of samples, nor has a data_list")
    for number, sample in enumerate(samples):
        where = f"sample {number} of {path}"
        if not isinstance(sample, Mapping):
            raise InvalidType(f"{where} is not a dict of paths but {reprlib.repr(sample)}")
        paths = {}
        for key in keys:
            name = sample.get(_LISTED[key])
            if not isinstance(name, str) or not name:
                raise InvalidValue(f"{where} has no path {_LISTED[key]!r} of its {KINDS[key]}")
            if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
                raise InvalidValue(
                    f"{where}: the {KINDS[key]} {name!r:.80} must be a path below data_root, "
                    "neither absolute nor with '..'"
                )
            paths[key] = os.path.join(root or "", name)
            if not os.path.isfile(paths[key]):
                raise InvalidValue(f"{where}: the {KINDS[key]} {paths[key]}: no such file")
        yield paths


def list_images(directory: str, kind: str) -> dict[str, str]:
    """Images in a directory and below it, by their names in it without the extension.

    Raises:
        InvalidValue: the directory cannot be read, or two images have one name.
    """
    if not os.path.isdir(directory):
        raise InvalidValue(f"the directory of {kind}s {directory} does not exist")
    found: dict[str, str] = {}
    for path in sorted(Path(directory).rglob("*")):
        name, extension = os.path.splitext(str(path.relative_to(directory)))
        if extension.lower() not in EXTENSIONS or path.name.startswith("."):
            continue
        if name in found:
            raise InvalidValue(f"two {kind}s have one name: {found[name]} and {path}")
        found[name] = str(path)
    return found


def _list_directories(
    dataset: BaseDataset, needed: Iterable[str], optional: Iterable[str]
) -> dict[str, dict[str, str]]:
    """The files in each directory of a data set's ``data_prefix``, by name."""
    prefixes = dataset.data_prefix
    missing = [key for key in needed if not prefixes.get(key)]
    unknown = [key for key in prefixes if key not in {*needed, *optional}]
    if missing or unknown:
        accepted = [*needed, *(f"{key} (optional)" for key in optional)]
        raise InvalidValue(
            f"data_prefix of {type(dataset).__name__} needs directories {', '.join(accepted)}, got "
            f"{', '.join(prefixes) or 'none'}"
        )
    keys = [*needed, *(key for key in optional if prefixes.get(key))]
    return {key: list_images(prefixes[key], KINDS[key]) for key in keys}


def _samples(found: dict[str, dict[str, str]], names: set[str]) -> list[dict]:
    """The paths of each of ``names``, in order."""
    return [{key: paths[name] for key, paths in found.items()} for name in sorted(names)]


def _not_empty(dataset: BaseDataset, samples: Iterable[dict]) -> list[dict]:
    listed = list(samples)
    if not listed:
        places = [dataset.ann_file] if dataset.ann_file else dataset.data_prefix.values()
        raise InvalidValue(
            f"the data set {type(dataset).__name__} is empty: no sample in "
            f"{', '.join(map(str, places))}"
        )
    return listed


def _each_foreground_once(samples: Iterable[dict], ann_file: str) -> list[dict]:
    once: dict[str, dict] = {}
    for sample in samples:
        first = once.setdefault(sample["fg_path"], sample)
        if first["alpha_path"] != sample["alpha_path"]:
            raise InvalidValue(
                f"ann_file {ann_file} has two alpha mattes of the foreground {sample['fg_path']}: "
                f"{first['alpha_path']} and {sample['alpha_path']}"
            )
    return list(once.values())


def _check_complete(
    names: set[str], found: dict[str, dict[str, str]], key: str, paths: dict[str, str]
) -> None:
    """Raise InvalidValue unless each of ``names`` has its file among ``paths``."""
    missing = sorted(names - set(paths))
    if not missing:
        return
    other = next(each for each in found if missing[0] in found[each])
    raise InvalidValue(
        f"the {KINDS[other]} {found[other][missing[0]]} has no {KINDS[key]}: "
        f"{len(missing)} of {len(names)} are missing in {key}"
    )
