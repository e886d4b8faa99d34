"""Label maps of semantic segmentation, checked as soon as they are read.

Without it a map of another size than its picture is cropped along with it and trains the wrong
labels, or fails where samples are put together, in words that name no file.
"""

from __future__ import annotations

from typing import Any

from mmengine.dataset import Compose

from mmdysample.engine.errors import UserError

LOADER = "LoadAnnotations"


class LabelMapCheck:
    """A transform that follows the one that loads labels.

    Args:
        num_classes: labels run from 0 to this, without it; None if the data set does not say.
        ignore_index: the label of pixels that do not count.
    """

    def __init__(self, num_classes: int | None, ignore_index: int) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def __call__(self, results: dict) -> dict:
        """The same results.

        Raises:
            UserError: the label map is not of the picture's size, or has a label that is none of
                the classes.
        """
        labels, size = results.get("gt_seg_map"), results.get("ori_shape")
        if labels is None or size is None:
            return results
        path = results.get("seg_map_path", "a label map")
        if tuple(labels.shape[:2]) != tuple(size[:2]):
            raise UserError(
                f"the label map {path} is {labels.shape[0]}x{labels.shape[1]} (height x width), "
                f"but its picture {results.get('img_path')} is {size[0]}x{size[1]}"
            )
        if self.num_classes is not None:
            wrong = labels[(labels >= self.num_classes) & (labels != self.ignore_index)]
            if wrong.size:
                raise UserError(
                    f"the label map {path} has label {wrong.flat[0]}, but the data set has "
                    f"{self.num_classes} classes, 0 to {self.num_classes - 1}, and "
                    f"{self.ignore_index} for pixels that do not count"
                )
        return results


def check_label_maps(dataset: Any) -> None:
    """Let a data set, or those inside of it, check the label maps that its pipeline loads."""
    inner = getattr(dataset, "datasets", None) or getattr(dataset, "dataset", None)
    if inner is not None:
        for one in inner if isinstance(inner, (list, tuple)) else [inner]:
            check_label_maps(one)
        return
    pipeline = getattr(dataset, "pipeline", None)
    if not isinstance(pipeline, Compose) or not hasattr(dataset, "ignore_index"):
        return  # not a data set of label maps
    classes = dataset.metainfo.get("classes")
    check = LabelMapCheck(None if classes is None else len(classes), dataset.ignore_index)
    pipeline.transforms = [
        step
        for transform in pipeline.transforms
        for step in ([transform, check] if type(transform).__name__ == LOADER else [transform])
    ]
