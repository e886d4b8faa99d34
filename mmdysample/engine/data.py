"""Data sets as the tools build them: what a user can get wrong in them is checked in front.

The checks hold for any config: annotation files and directories are checked before the data set
reads them, image and label map files when a sample is loaded.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.dataset import BaseDataset, Compose
from mmengine.registry import DATASETS, METRICS, Registry

from mmdysample.engine.annotations import read_annotations
from mmdysample.engine.images import ImageFileCheck, ImageSizeCheck
from mmdysample.engine.labels import LabelMapCheck, check_directories
from mmdysample.errors import UserError

# Keys under which wrappers of data sets hold their data sets.
INNER = ("dataset", "datasets")


def build_data_set(cfg: Any) -> Any:
    """Build a data set, or data sets inside of others, from its config, and check it.

    A data set that was built already is returned with the checks of its samples.

    Raises:
        UserError: its annotation file or its directories are not in order, or it is empty.
    """
    dataset = DATASETS.build(_with_checks(cfg)) if isinstance(cfg, Mapping) else cfg
    if not isinstance(cfg, Mapping):
        for leaf in _leaves(dataset):
            _check_samples(leaf)
    if len(dataset) == 0:
        raise UserError(empty_data_set(dataset))
    return dataset


def check_evaluator(evaluator: Any, dataloader: Any) -> None:
    """Check the annotation files that the metrics of a config compare predictions with.

    Args:
        evaluator: config of a metric, or a list of such.
        dataloader: config of the dataloader whose data set has the classes.

    Raises:
        UserError: what is wrong with a file.
    """
    for metric in evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]:
        if not isinstance(metric, Mapping) or not metric.get("ann_file"):
            continue
        names = _ancestors(_registered(METRICS, metric))
        if "LVISMetric" in names or not names & {"CocoMetric", "CocoPanopticMetric"}:
            continue
        read_annotations(
            metric["ann_file"],
            _classes(dataloader),
            panoptic="CocoPanopticMetric" in names,
            masks="segm" in metric.get("metric", "bbox"),
            annotated=not metric.get("format_only"),
            evaluated="CocoMetric" in names,
            backend_args=metric.get("backend_args"),
        )


def empty_data_set(dataset: Any) -> str:
    """The sentence for a data set without samples."""
    dataset = next(_leaves(dataset))
    places = [getattr(dataset, "ann_file", None), *getattr(dataset, "data_prefix", {}).values()]
    where = ", ".join(str(place) for place in places if place) or "its files"
    filters = getattr(dataset, "filter_cfg", None)
    why = f" that passes filter_cfg={dict(filters)}" if filters else ""
    return f"the data set {type(dataset).__name__} is empty: no sample in {where}{why}"


def _with_checks(cfg: Mapping) -> dict:
    """The config with every data set that reads files built by ``_build_checked``."""
    inner = {key: cfg[key] for key in INNER if key in cfg}
    if not inner:
        return dict(type=_build_checked, cfg=cfg)
    for key, value in inner.items():
        if isinstance(value, Mapping):
            inner[key] = _with_checks(value)
        elif isinstance(value, (list, tuple)):
            inner[key] = [_with_checks(v) if isinstance(v, Mapping) else v for v in value]
    return {**cfg, **inner}


def _build_checked(cfg: Mapping) -> Any:
    """Build a data set that reads nothing yet, check what it would read, and let it read."""
    cls = _registered(DATASETS, cfg)
    readable = inspect.isclass(cls) and issubclass(cls, BaseDataset)
    if not readable or not _takes(cls, "lazy_init"):
        dataset = DATASETS.build(cfg)
    else:
        dataset = DATASETS.build({**cfg, "lazy_init": True})
        _read(dataset)
    _check_samples(dataset)
    return dataset


def _read(dataset: BaseDataset) -> None:
    reader = _reader(dataset)
    if reader == "CocoDataset":
        api = _checked_api(dataset)
        # Large files take long to be read twice.
        dataset.COCOAPI = lambda path: api
    elif reader == "BaseSegDataset":
        check_directories(dataset, labelled=any(map(_loads_labels, _flattened(dataset.pipeline))))
    # To serialize no samples fails in numpy.
    serialized, dataset.serialize_data = dataset.serialize_data, False
    dataset.full_init()
    if not dataset.data_list:
        raise UserError(empty_data_set(dataset))
    if serialized:
        dataset.data_bytes, dataset.data_address = dataset._serialize_data()
        dataset.serialize_data = True
    vars(dataset).pop("COCOAPI", None)


def _checked_api(dataset: Any) -> Any:
    """pycocotools' index, as mmdet makes it, of the data set's annotations after their check."""
    if "img" not in dataset.data_prefix:
        raise UserError(
            f"data_prefix of {type(dataset).__name__} needs the key 'img', the directory of "
            f"images, got {dataset.data_prefix}"
        )
    api = dataset.COCOAPI()
    api.dataset = read_annotations(
        dataset.ann_file,
        dataset.metainfo.get("classes"),
        panoptic="CocoPanopticDataset" in _ancestors(type(dataset)),
        masks=any(getattr(t, "with_mask", False) for t in _flattened(dataset.pipeline)),
        annotated=not dataset.test_mode,
        backend_args=dataset.backend_args,
    )
    api.createIndex()
    api.img_ann_map, api.cat_img_map = api.imgToAnns, api.catToImgs
    return api


def _check_samples(dataset: Any) -> None:
    """Put the checks of image and label map files into a data set's pipeline."""
    if isinstance(getattr(dataset, "pipeline", None), Compose):
        _put_checks(dataset.pipeline, dataset)


def _put_checks(pipeline: Compose, dataset: Any) -> None:
    steps = []
    for transform in pipeline.transforms:
        before, after = [], []
        if _loads_image(transform):
            before = [ImageFileCheck("img_path")]
            after = [ImageSizeCheck(getattr(dataset, "ann_file", ""))]
        elif _loads_labels(transform) and hasattr(dataset, "ignore_index"):
            classes = dataset.metainfo.get("classes")
            before = [ImageFileCheck("seg_map_path", "label map", labels=True)]
            after = [LabelMapCheck(classes and len(classes), dataset.ignore_index)]
        elif _loads_labels(transform):
            before = [ImageFileCheck("seg_map_path", "map of segments")]
        for branch in _branches(transform):
            _put_checks(branch, dataset)
        steps += [*(before if _is_local(transform) else []), transform, *after]
    pipeline.transforms = steps


def _loads_image(transform: Any) -> bool:
    return (
        "LoadImageFromFile" in _ancestors(type(transform))
        and not transform.ignore_empty
        and transform.imdecode_backend != "tifffile"
    )


def _is_local(transform: Any) -> bool:
    """Whether it reads the files of this machine by their paths."""
    places = [getattr(transform, key, None) for key in ("backend_args", "file_client_args")]
    return all((place or {}).get("backend", "local") == "local" for place in places)


def _loads_labels(transform: Any) -> bool:
    named = "LoadAnnotations" in _ancestors(type(transform))
    return named and getattr(transform, "with_seg", False)


def _branches(transform: Any) -> list[Compose]:
    """The pipelines of test-time augmentation."""
    return getattr(transform, "subroutines", [])


def _flattened(pipeline: Compose) -> Iterator[Any]:
    for transform in pipeline.transforms:
        yield transform
        for branch in _branches(transform):
            yield from _flattened(branch)


def _leaves(dataset: Any) -> Iterator[Any]:
    """The data sets inside of a data set, or itself."""
    inner = [getattr(dataset, key, None) for key in INNER]
    inner = next((one for one in inner if one is not None), None)
    if inner is None:
        yield dataset
    for one in inner if isinstance(inner, (list, tuple)) else [inner]:
        if one is not None:
            yield from _leaves(one)


def _classes(dataloader: Any) -> Any:
    """Classes of the first data set of a dataloader's config; None if it does not say."""
    cfg = dataloader.get("dataset") if isinstance(dataloader, Mapping) else None
    while isinstance(cfg, Mapping):
        inner = next((cfg[key] for key in INNER if key in cfg), None)
        if inner is None:
            cls = _registered(DATASETS, cfg)
            known = "BaseDataset" in _ancestors(cls)
            return cls._load_metainfo(cfg.get("metainfo")).get("classes") if known else None
        cfg = inner[0] if isinstance(inner, (list, tuple)) and inner else inner
    return None


def _reader(dataset: BaseDataset) -> str:
    """Name of the class whose code reads the annotations."""
    return next(c.__name__ for c in type(dataset).__mro__ if "load_data_list" in vars(c))


def _registered(registry: Registry, cfg: Mapping) -> Any:
    """The class of a config, if there is one."""
    kind = cfg.get("type")
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(cfg.get("_scope_")) as scoped:
        return scoped.get(kind)


def _ancestors(cls: Any) -> set[str]:
    """Names of a class and of those that it inherits from; these are upstream's to import."""
    return {base.__name__ for base in cls.__mro__} if inspect.isclass(cls) else set()


def _takes(cls: type, argument: str) -> bool:
    parameters = inspect.signature(cls).parameters
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
