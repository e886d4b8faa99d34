"""Data sets as the tools build them: what a user can get wrong in them is checked in front.

The checks hold for any config: annotation files and directories are checked before a data set
reads them; images and label maps when a sample is loaded, by transforms inserted before and after
those that load. The log lists them. They are in the built data set alone, and not in the config
that is saved, so that what upstream's tools and inferencers read from that is as they know it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from mmcv.transforms import LoadAnnotations, LoadImageFromFile, TestTimeAug
from mmengine.dataset import BaseDataset, Compose
from mmengine.logging import print_log
from mmengine.registry import DATASETS, METRICS

from mmdysample.coco import check_annotations, read_annotations
from mmdysample.engine.depth_maps import CheckDepthFile, CheckDepthMap, check_depth_directories
from mmdysample.engine.labels import CheckLabelMap, check_directories
from mmdysample.engine.lookup import class_of
from mmdysample.errors import UserError
from mmdysample.images import CheckImageFile, CheckImageSize

PANOPTIC_METRICS = ("CocoPanopticMetric", "PanopticQualityMetric")


def data_set_configs(cfg: Any) -> list[dict]:
    """The configs of the data sets that read files, inside of wrappers such as RepeatDataset."""
    if not isinstance(cfg, Mapping):
        return []
    for key in ("dataset", "datasets"):
        if key in cfg:
            inner = cfg[key] if isinstance(cfg[key], (list, tuple)) else [cfg[key]]
            return [leaf for each in inner for leaf in data_set_configs(each)]
    return [cfg]


def build_data_set(cfg: Any) -> Any:
    """Build a data set, or data sets inside of others, from its config, and check it.

    A data set that was built already is returned as it is.

    Raises:
        UserError: its annotation file or its directories are not in order, or it is empty.
    """
    dataset = cfg
    if isinstance(cfg, Mapping):
        cfg = copy.deepcopy(cfg)
        for leaf in data_set_configs(cfg):
            if leaf.get("type") is _build_checked:
                continue  # a config that is named twice
            arguments = dict(leaf)
            leaf.clear()
            leaf.update(type=_build_checked, cfg=arguments)
        dataset = DATASETS.build(cfg)
    if len(dataset) == 0:
        raise UserError(_empty_sentence(dataset))
    return dataset


def _build_checked(cfg: dict) -> Any:
    """Build a data set that reads nothing yet, check what it would read, and let it read."""
    cls = class_of(DATASETS, cfg["type"], cfg.get("_scope_"))
    if inspect.isclass(cls) and issubclass(cls, BaseDataset) and _takes(cls, "lazy_init"):
        dataset = DATASETS.build({**cfg, "lazy_init": True})
        _check_files(dataset)
        _read(dataset)
    else:
        dataset = DATASETS.build(cfg)
    if isinstance(getattr(dataset, "pipeline", None), Compose):
        dataset.pipeline = Compose(with_checks(dataset.pipeline.transforms, dataset))
        names = ", ".join(type(transform).__name__ for transform in dataset.pipeline.transforms)
        print_log(f"samples of {type(dataset).__name__} go through {names}", "current")
    return dataset


def _check_files(dataset: BaseDataset) -> None:
    # The class whose code reads them: LVISDataset, say, is a CocoDataset that reads another format.
    reader = next(cls.__name__ for cls in type(dataset).__mro__ if "load_data_list" in vars(cls))
    transforms = _all_transforms(dataset.pipeline)
    if reader == "BaseSegDataset":
        check_directories(dataset, labeled=any(map(_loads_labels, transforms)))
    elif reader == "NYUDataset":
        check_depth_directories(dataset, labeled=any(map(_loads_depth, transforms)))
    elif reader == "CocoDataset":
        if "img" not in dataset.data_prefix:
            raise UserError(
                f"data_prefix of {type(dataset).__name__} needs the key 'img', the directory of "
                f"images, got {dataset.data_prefix}"
            )
        check_annotations(
            read_annotations(dataset.ann_file, dataset.backend_args),
            dataset.ann_file,
            dataset.metainfo.get("classes"),
            panoptic="CocoPanopticDataset" in _ancestors(type(dataset)),
            masks=any(getattr(transform, "with_mask", False) for transform in transforms),
            annotated=not dataset.test_mode,
        )


def _read(dataset: BaseDataset) -> None:
    # To serialize no samples fails in numpy.
    serialized, dataset.serialize_data = dataset.serialize_data, False
    dataset.full_init()
    if not dataset.data_list:
        raise UserError(_empty_sentence(dataset))
    if serialized:
        dataset.data_bytes, dataset.data_address = dataset._serialize_data()
        dataset.serialize_data = True


def _empty_sentence(dataset: Any) -> str:
    """The sentence for a data set without samples."""
    places = [getattr(dataset, "ann_file", None), *getattr(dataset, "data_prefix", {}).values()]
    where = ", ".join(str(place) for place in places if place) or "its files"
    filters = getattr(dataset, "filter_cfg", None)
    why = f" that passes filter_cfg={dict(filters)}" if filters else ""
    return f"the data set {type(dataset).__name__} is empty: no sample in {where}{why}"


def with_checks(transforms: list, dataset: Any) -> list:
    """The transforms of a data set, with checks before and after each one that loads a file."""
    checked = []
    for transform in transforms:
        before, after = [], []
        if isinstance(transform, TestTimeAug):
            branches = [with_checks(each.transforms, dataset) for each in transform.subroutines]
            transform.subroutines = [Compose(branch) for branch in branches]
        elif _loads_image(transform):
            before = [CheckImageFile("img_path")]
            after = [CheckImageSize(getattr(dataset, "ann_file", ""))]
        elif _loads_labels(transform) and hasattr(dataset, "ignore_index"):
            classes = dataset.metainfo.get("classes")
            before = [CheckImageFile("seg_map_path", "label map", labels=True)]
            after = [CheckLabelMap(classes and len(classes), dataset.ignore_index)]
        elif _loads_labels(transform):
            before = [CheckImageFile("seg_map_path", "map of segments")]
        elif _loads_depth(transform):
            before = [CheckDepthFile()] if transform.decode_backend == "cv2" else []
            after = [CheckDepthMap()]
        else:
            files = getattr(transform, "checked_files", {})  # of transforms of ours
            before = [CheckImageFile(key, kind) for key, kind in files.items()]
        checked += [*(before if _is_local(transform) else []), transform, *after]
    return checked


def _loads_image(transform: Any) -> bool:
    return (
        isinstance(transform, LoadImageFromFile)
        and not transform.ignore_empty
        and transform.imdecode_backend != "tifffile"
    )


def _loads_labels(transform: Any) -> bool:
    return isinstance(transform, LoadAnnotations) and transform.with_seg


def _loads_depth(transform: Any) -> bool:
    return "LoadDepthAnnotation" in _ancestors(type(transform))  # mmseg's


def _is_local(transform: Any) -> bool:
    """Whether it reads the files of this machine by their paths."""
    places = [getattr(transform, key, None) for key in ("backend_args", "file_client_args")]
    return all((place or {}).get("backend", "local") == "local" for place in places)


def _all_transforms(pipeline: Compose) -> list:
    """Those of a pipeline and, of test-time augmentation, those of each branch."""
    branches = [
        branch
        for transform in pipeline.transforms
        if isinstance(transform, TestTimeAug)
        for branch in transform.subroutines
    ]
    return [*pipeline.transforms, *(each for branch in branches for each in branch.transforms)]


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
        names = _ancestors(class_of(METRICS, metric.get("type"), metric.get("_scope_")))
        panoptic = not names.isdisjoint(PANOPTIC_METRICS)
        boxes = "CocoMetric" in names and "LVISMetric" not in names
        if not panoptic and not boxes:
            continue
        check_annotations(
            read_annotations(metric["ann_file"], metric.get("backend_args")),
            metric["ann_file"],
            _classes(dataloader),
            panoptic=panoptic,
            masks="segm" in metric.get("metric", "bbox"),
            annotated=not metric.get("format_only"),
            evaluated=boxes,
        )


def _classes(dataloader: Any) -> Any:
    """Classes of the first data set of a dataloader's config; None if it does not say."""
    found = data_set_configs(dataloader["dataset"]) if isinstance(dataloader, Mapping) else []
    for cfg in found[:1]:
        cls = class_of(DATASETS, cfg["type"], cfg.get("_scope_"))
        metainfo = {**getattr(cls, "METAINFO", {}), **(cfg.get("metainfo") or {})}
        classes = metainfo.get("classes")
        # A text is the name of a file with them.
        return None if isinstance(classes, str) else classes
    return None


def _ancestors(cls: Any) -> set[str]:
    """Names of a class and of those that it inherits from; these are upstream's to import."""
    return {base.__name__ for base in cls.__mro__} if inspect.isclass(cls) else set()


def _takes(cls: type, argument: str) -> bool:
    parameters = inspect.signature(cls).parameters
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
