"""Draw predictions of trained models beside the image and the ground truth.

    python tools/analysis/predictions.py --out sheet.png \\
        --model Nearest CONFIG CHECKPOINT --model DySample CONFIG CHECKPOINT

takes images of the test set, a row each. Boxes for mmdet configs, label maps for mmseg configs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmdysample.engine.config import load_config
from mmdysample.engine.errors import ArgumentParser, UserError, run_tool
from mmdysample.engine.families import import_family
from mmdysample.inference import check_figure_path, load_model, predict, read_image

Color = tuple[float, float, float]
UNLABELLED = (0.0, 0.0, 0.0)


class Classes(NamedTuple):
    names: tuple[str, ...]
    colors: tuple[Color, ...]


class Sheet(NamedTuple):
    """How one family's ground truth and predictions are drawn onto an image."""

    truth: Callable[[Axes, Any, Classes], None]
    prediction: Callable[[Axes, Any, Classes, float], None]
    has_image_column: bool


def parse_args() -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n\n")
    parser = ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "CONFIG", "CHECKPOINT"),
        help="a column of the sheet; may be given several times, all of one data set",
    )
    parser.add_argument("--out", required=True, help="figure to write (.png, .pdf, .svg, ...)")
    parser.add_argument("--images", type=int, default=4, help="rows of the sheet (%(default)s)")
    parser.add_argument(
        "--score", type=float, default=0.5, help="least score of a box (%(default)s)"
    )
    parser.add_argument("--data-root", help="directory of the test set, if not the config's")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    args = parser.parse_args()
    if args.images < 1:
        parser.error(f"--images must be 1 or more, got {args.images}")
    return args


def load(path: str, data_root: str | None) -> Config:
    options = None if data_root is None else {"test_dataloader.dataset.data_root": data_root}
    return load_config(path, options, ("model", "test_dataloader"))


def test_samples(cfg: Config, count: int) -> tuple[list[dict], Classes]:
    """``count`` samples from all over the test set, loaded as for testing, and its classes."""
    import_family(cfg)
    init_default_scope(cfg.default_scope)
    root = cfg.test_dataloader.dataset.get("data_root")
    if root and not os.path.isdir(root):
        raise UserError(f"the data set's directory {root} does not exist: give --data-root")
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    if len(dataset) == 0:
        raise UserError("the test set of the config is empty")
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
    names = tuple(dataset.metainfo["classes"])
    palette = dataset.metainfo.get("palette")
    if palette:
        colors = tuple(tuple(part / 255 for part in color) for color in palette)
    else:
        colors = tuple(plt.get_cmap("hsv")(i / len(names))[:3] for i in range(len(names)))
    return [dataset[int(index)] for index in chosen], Classes(names, colors)


def draw_boxes(axes: Axes, boxes: np.ndarray, labels: np.ndarray, classes: Classes) -> None:
    """Boxes (n, 4) as x1, y1, x2, y2."""
    outline = [withStroke(linewidth=3.2, foreground="black", alpha=0.7)]
    for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
        box = Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1)
        box.set(fill=False, edgecolor=classes.colors[label], linewidth=1.8, path_effects=outline)
        axes.add_patch(box)


def draw_true_boxes(axes: Axes, sample: Any, classes: Classes) -> None:
    truth = sample.gt_instances
    boxes = getattr(truth.bboxes, "tensor", truth.bboxes)
    draw_boxes(axes, boxes.numpy(), truth.labels.numpy(), classes)


def draw_predicted_boxes(axes: Axes, sample: Any, classes: Classes, least_score: float) -> None:
    if not hasattr(sample, "pred_instances"):
        raise UserError(
            "the model predicts no boxes (pred_instances), which are what is drawn here of a "
            "detector; tools/test.py --show-dir draws panoptic segments"
        )
    found = sample.pred_instances.cpu()
    found = found[found.scores >= least_score]
    found = found[found.scores.argsort()]
    draw_boxes(axes, found.bboxes.numpy(), found.labels.numpy(), classes)


def draw_labels(axes: Axes, labels: np.ndarray, classes: Classes) -> None:
    """A label map (H, W), over what was drawn before."""
    colors = np.full((256, 3), UNLABELLED)
    colors[: len(classes.colors)] = classes.colors
    axes.imshow(colors[labels], interpolation="nearest")


def draw_true_labels(axes: Axes, sample: Any, classes: Classes) -> None:
    draw_labels(axes, sample.gt_sem_seg.data[0].numpy(), classes)


def draw_predicted_labels(axes: Axes, sample: Any, classes: Classes, least_score: float) -> None:
    draw_labels(axes, sample.pred_sem_seg.data[0].cpu().numpy(), classes)


SHEETS = {
    "mmdet": Sheet(draw_true_boxes, draw_predicted_boxes, has_image_column=False),
    "mmseg": Sheet(draw_true_labels, draw_predicted_labels, has_image_column=True),
}


def draw(
    samples: list[dict],
    predictions: dict[str, list[Any]],
    classes: Classes,
    sheet: Sheet,
    least_score: float,
) -> plt.Figure:
    """A row a sample; the columns are the image, the ground truth and the models."""
    titles = ["image"] * sheet.has_image_column + ["ground truth", *predictions]
    rows, columns = len(samples), len(titles)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(2.9 * columns, 2.9 * rows + 0.9),
        dpi=90,
        squeeze=False,
        layout="constrained",
    )
    for row, sample in enumerate(samples):
        image = cv2.cvtColor(read_image(sample["data_samples"].img_path), cv2.COLOR_BGR2RGB)
        for axes in grid[row]:
            axes.imshow(image, interpolation="nearest")
            axes.axis("off")
        truth, *models = grid[row][sheet.has_image_column :]
        sheet.truth(truth, sample["data_samples"], classes)
        for axes, found in zip(models, predictions.values(), strict=True):
            sheet.prediction(axes, found[row], classes, least_score)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=13)
    figure.legend(
        handles=[
            Patch(facecolor=color, edgecolor="black", label=name)
            for name, color in zip(classes.names, classes.colors, strict=True)
        ],
        loc="outside lower center",
        ncols=-(-len(classes.names) // -(-len(classes.names) // (2 * columns))),
        fontsize=10,
        frameon=False,
    )
    return figure


def main() -> None:
    args = parse_args()
    configs = {name: load(config, args.data_root) for name, config, _ in args.model}
    if len(configs) < len(args.model):
        raise UserError("two models of --model have the same NAME: give each one of its own")
    if len({cfg.default_scope for cfg in configs.values()}) > 1:
        raise UserError("--model: a sheet shows detectors or segmentors, not both")
    predictions: dict[str, list[Any]] = {}
    for name, _, checkpoint in args.model:
        cfg = configs[name]
        check_figure_path(args.out, cfg)
        samples, classes = test_samples(cfg, args.images)
        model = load_model(cfg, checkpoint, args.device)
        predictions[name] = [predict(model, sample) for sample in samples]
    sheet = SHEETS[cfg.default_scope]
    figure = draw(samples, predictions, classes, sheet, args.score)
    figure.savefig(args.out)
    print(args.out)


if __name__ == "__main__":
    sys.exit(run_tool(main))
