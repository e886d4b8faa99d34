"""Draw predictions of trained models beside the image and the ground truth.

    python tools/analysis/predictions.py --out sheet.png \\
        --model Nearest CONFIG CHECKPOINT --model DySample CONFIG CHECKPOINT

takes images of the test set, a row each. What the models predict is drawn: boxes, with masks where
there are some, panoptic segments, label maps, depth with one scale for the whole sheet, or mattes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from sheets.zoom import WHOLE, draw_frame, show, window_of_most

from mmdysample.engine.config import load_config
from mmdysample.engine.errors import ArgumentParser, UserError, run_tool
from mmdysample.engine.families import import_family
from mmdysample.inference import check_figure_path, load_model, predict, read_image

Color = tuple[float, float, float]
UNLABELLED = (0.0, 0.0, 0.0)
PLAIN = (0.35, 0.55, 0.95)
"""What mattes are composed over."""
DEPTH_COLORS = "magma_r"
UNKNOWN_DEPTH = "0.5"
INSTANCE_OFFSET = 1000
"""mmdet's: a segment's id is its label and this many times the number of the instance."""


class Classes(NamedTuple):
    names: tuple[str, ...]
    colors: tuple[Color, ...]


class Drawing(NamedTuple):
    """A prediction or a ground truth as it is drawn."""

    values: np.ndarray
    """(H, W): what of it is compared between models."""
    layers: Sequence[np.ndarray]
    """One a line of the sheet: (H, W, 4), RGBA over the image; (H, W), depth in meters."""
    boxes: Sequence[tuple[np.ndarray, Color]] = ()
    """x1, y1, x2, y2, and the color."""


class Task(NamedTuple):
    """How one kind of prediction is drawn."""

    kind: str
    is_predicted: Callable[[Any], bool]
    truth: Callable[[Any, Classes, np.ndarray], Drawing | None]
    prediction: Callable[[Any, Classes, np.ndarray, float], Drawing]
    has_image_column: bool = True
    has_legend: bool = True


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
    parser.add_argument(
        "--zoom",
        type=float,
        default=0,
        help="enlargement of the part where the models differ most, in a line of its own below "
        "each image; 0: none (%(default)g)",
    )
    parser.add_argument("--data-root", help="directory of the test set, if not the config's")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    args = parser.parse_args()
    if args.images < 1:
        parser.error(f"--images must be 1 or more, got {args.images}")
    if args.zoom != 0 and not 1 < args.zoom <= 64:
        parser.error(f"--zoom must be 0, or above 1 and at most 64, got {args.zoom:g}")
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
    names = tuple(dataset.metainfo.get("classes") or ())
    palette = dataset.metainfo.get("palette")
    if palette:
        colors = tuple(tuple(part / 255 for part in color) for color in palette)
    else:
        colors = tuple(plt.get_cmap("hsv")(i / len(names))[:3] for i in range(len(names)))
    return [dataset[int(index)] for index in chosen], Classes(names, colors)


def paint_boxes(size: tuple[int, int], found: Any, classes: Classes) -> Drawing:
    """Boxes, and masks where there are some, of instances in the order of drawing."""
    boxes = getattr(found.bboxes, "tensor", found.bboxes).numpy()
    labels = found.labels.tolist()
    colors = [classes.colors[label] for label in labels]
    values = np.zeros(size, np.int64)
    layer = np.zeros((*size, 4))
    masks = masks_of(found)
    for number, (box, color) in enumerate(zip(boxes, colors, strict=True)):
        if masks is None:
            x1, y1, x2, y2 = np.clip(box, 0, (*size[::-1], *size[::-1])).round().astype(int)
            values[y1:y2, x1:x2] = 1 + labels[number]
            continue
        mask = masks[number]
        values[mask] = 1 + labels[number]
        layer[mask] = (*color, 0.55)
        layer[outline(mask)] = (0, 0, 0, 1)
    return Drawing(values, [layer], list(zip(boxes, colors, strict=True)))


def masks_of(found: Any) -> np.ndarray | None:
    """(n, H, W), bool, or None where there are boxes alone."""
    if "masks" not in found:
        return None
    masks = found.masks
    return np.asarray(getattr(masks, "masks", masks)).astype(bool)


def outline(labels: np.ndarray) -> np.ndarray:
    """(H, W), bool: pixels whose right or lower neighbor is of another label."""
    edge = np.zeros(labels.shape, bool)
    edge[:-1] |= labels[:-1] != labels[1:]
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edge


def true_boxes(sample: Any, classes: Classes, image: np.ndarray) -> Drawing | None:
    truth = sample.gt_instances
    return paint_boxes(image.shape[:2], truth, classes) if "bboxes" in truth else None


def predicted_boxes(
    sample: Any, classes: Classes, image: np.ndarray, least_score: float
) -> Drawing:
    """Of a score of at least ``least_score``, the surest on top."""
    found = sample.pred_instances.cpu()
    found = found[found.scores >= least_score]
    return paint_boxes(image.shape[:2], found[found.scores.argsort()], classes)


def paint_labels(labels: np.ndarray, classes: Classes, opacity: float = 1) -> Drawing:
    """A label map (H, W); labels that no class has are black."""
    colors = np.full((256, 4), (*UNLABELLED, 1.0))
    colors[: len(classes.colors), :3] = classes.colors
    colors[: len(classes.colors), 3] = opacity
    return Drawing(labels, [colors[labels]])


def true_labels(sample: Any, classes: Classes, image: np.ndarray) -> Drawing | None:
    if "gt_sem_seg" not in sample:
        return None
    return paint_labels(sample.gt_sem_seg.data[0].numpy(), classes)


def predicted_labels(
    sample: Any, classes: Classes, image: np.ndarray, least_score: float
) -> Drawing:
    return paint_labels(sample.pred_sem_seg.data[0].cpu().numpy(), classes)


def paint_segments(labels: np.ndarray, edges: np.ndarray, classes: Classes) -> Drawing:
    """Panoptic segments: their classes' colors over the image, and outlines."""
    painted = paint_labels(labels, classes, opacity=0.75)
    painted.layers[0][edges] = (0, 0, 0, 1)
    return painted


def true_segments(sample: Any, classes: Classes, image: np.ndarray) -> Drawing | None:
    if "gt_sem_seg" not in sample:
        return None
    labels = sample.gt_sem_seg.sem_seg[0].numpy()
    edges = outline(labels)
    for mask in masks_of(sample.gt_instances) if "masks" in sample.gt_instances else ():
        edges |= outline(mask)
    return paint_segments(labels, edges, classes)


def predicted_segments(
    sample: Any, classes: Classes, image: np.ndarray, least_score: float
) -> Drawing:
    ids = sample.pred_panoptic_seg.sem_seg[0].cpu().numpy()
    labels = ids % INSTANCE_OFFSET
    return paint_segments(np.where(labels < len(classes.names), labels, 255), outline(ids), classes)


def paint_depth(depth: np.ndarray) -> Drawing:
    """Depth (H, W) in meters; where it is not known it is NaN."""
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, np.nan).astype(np.float64)
    return Drawing(depth, [depth])


def true_depth(sample: Any, classes: Classes, image: np.ndarray) -> Drawing | None:
    if "gt_depth_map" not in sample:
        return None
    return paint_depth(sample.gt_depth_map.data[0].numpy())


def predicted_depth(
    sample: Any, classes: Classes, image: np.ndarray, least_score: float
) -> Drawing:
    return paint_depth(sample.pred_depth_map.data[0].cpu().numpy())


def paint_matte(alpha: np.ndarray, image: np.ndarray) -> Drawing:
    """Alpha (H, W), 0 to 255, in gray, and the image composed with it over a plain color."""
    alpha = alpha / 255
    gray = np.dstack([alpha] * 3 + [np.ones_like(alpha)])
    over = alpha[..., None] * (image / 255) + (1 - alpha[..., None]) * PLAIN
    return Drawing(alpha, [gray, np.dstack([over, np.ones_like(alpha)])])


def true_matte(sample: Any, classes: Classes, image: np.ndarray) -> Drawing | None:
    if "gt_alpha" not in sample:
        return None
    return paint_matte(sample.gt_alpha.data[0].numpy(), image)


def predicted_matte(
    sample: Any, classes: Classes, image: np.ndarray, least_score: float
) -> Drawing:
    return paint_matte(sample.pred_alpha.data[0].cpu().numpy(), image)


def predicts(field: str) -> Callable[[Any], bool]:
    return lambda sample: field in sample


TASKS = (  # the first that fits: panoptic models predict instances as well
    Task("segments", predicts("pred_panoptic_seg"), true_segments, predicted_segments),
    Task("boxes", predicts("pred_instances"), true_boxes, predicted_boxes, has_image_column=False),
    Task("mattes", predicts("pred_alpha"), true_matte, predicted_matte, has_legend=False),
    Task("depth", predicts("pred_depth_map"), true_depth, predicted_depth, has_legend=False),
    Task("label maps", predicts("pred_sem_seg"), true_labels, predicted_labels),
)


def task_of(predictions: dict[str, list[Any]]) -> Task:
    """What all models predict.

    Raises:
        UserError: they predict different kinds of results, or one that is not drawn here.
    """
    kinds: dict[str, Task] = {}
    for name, (sample, *_) in predictions.items():
        task = next((task for task in TASKS if task.is_predicted(sample)), None)
        if task is None:
            raise UserError(
                f"--model {name} predicts none of what is drawn here: "
                f"{', '.join(task.kind for task in TASKS)}"
            )
        kinds[name] = task
    if len({task.kind for task in kinds.values()}) > 1:
        found = ", ".join(f"{name} {task.kind}" for name, task in kinds.items())
        raise UserError(f"--model: a sheet shows one kind of prediction, but of these is {found}")
    return task


class Line(NamedTuple):
    """An image of the sheet: what is drawn of it."""

    image: np.ndarray
    """(H, W, 3), uint8, RGB."""
    trimap: np.ndarray | None
    truth: Drawing | None
    models: list[Drawing]


def paint(
    samples: list[dict],
    predictions: dict[str, list[Any]],
    classes: Classes,
    task: Task,
    least_score: float,
) -> list[Line]:
    lines = []
    for row, sample in enumerate(samples):
        sample = sample["data_samples"]
        image = cv2.cvtColor(read_image(sample.img_path), cv2.COLOR_BGR2RGB)
        trimap = sample.trimap.data[0].numpy() if "trimap" in sample else None
        truth = task.truth(sample, classes, image)
        models = [
            task.prediction(found[row], classes, image, least_score)
            for found in predictions.values()
        ]
        lines.append(Line(image, trimap, truth, models))
    return lines


def disagreement(line: Line) -> np.ndarray:
    """(H, W): how far the models' predictions are apart; of one model, from the ground truth."""
    compared = [drawing.values for drawing in line.models]
    if len(compared) == 1 and line.truth is not None:
        compared.append(line.truth.values)
    stack = np.stack(
        [
            cv2.resize(
                v.astype(np.float64), line.image.shape[1::-1], interpolation=cv2.INTER_NEAREST
            )
            for v in compared
        ]
    )
    if np.issubdtype(compared[0].dtype, np.integer):
        return (stack != stack[0]).any(axis=0).astype(np.float64)
    return np.nan_to_num(stack.max(axis=0) - stack.min(axis=0))


def draw(
    lines: list[Line], names: list[str], classes: Classes, task: Task, zoom: float = 0
) -> plt.Figure:
    """A row a sample; the columns are the image, the ground truth and the models.

    What a task draws in several layers takes a line each, and so does the zoom.
    """
    has_truth = any(line.truth is not None for line in lines)
    has_image = task.has_image_column or not has_truth
    titles = ["image"] * has_image + ["ground truth"] * has_truth + names
    layers = len(lines[0].models[0].layers)
    rows, columns = len(lines) * layers * (2 if zoom else 1), len(titles)
    scale = depth_scale(lines)
    has_legend = task.has_legend and bool(classes.names)
    below = has_legend or scale is not None
    shape = max(line.image.shape[0] / line.image.shape[1] for line in lines)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(2.9 * columns, 2.9 * shape * rows + (0.9 if below else 0.4)),
        dpi=90,
        squeeze=False,
        layout="compressed",
    )
    remaining = iter(grid)
    for line in lines:
        size = line.image.shape[:2]
        window = window_of_most(disagreement(line), 1 / zoom) if zoom else None
        for part in [WHOLE, window] if window else [WHOLE]:
            for layer in range(layers):
                cells = list(next(remaining))
                if has_image:
                    image = line.trimap if layer and line.trimap is not None else line.image
                    cells[0].imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                drawings = [line.truth] * has_truth + line.models
                for axes, drawing in zip(cells[has_image:], drawings, strict=True):
                    if drawing is None:
                        axes.axis("off")
                        continue
                    draw_one(axes, line.image, drawing, layer, scale)
                if part is not WHOLE:
                    cells[0].set_ylabel(f"zoom x{zoom:g}", fontsize=9)
                for axes in cells:
                    show(axes, size, part)
                    if part is WHOLE and window:
                        draw_frame(axes, size, window)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=13)
    if scale is not None:
        mapped = ScalarMappable(Normalize(*scale), DEPTH_COLORS)
        bar = figure.colorbar(mapped, ax=grid[-1], location="bottom", aspect=50, pad=0.03)
        bar.set_label("depth in meters; gray: not known", fontsize=10)
    if has_legend:
        draw_legend(figure, classes, columns)
    return figure


def depth_scale(lines: list[Line]) -> tuple[float, float] | None:
    """Least and largest depth of the sheet, None if it shows no depth."""
    drawings = [drawing for line in lines for drawing in (line.truth, *line.models) if drawing]
    depths = [layer for drawing in drawings for layer in drawing.layers if layer.ndim == 2]
    known = np.concatenate([depth[np.isfinite(depth)] for depth in depths] or [np.empty(0)])
    return (float(known.min()), float(known.max())) if known.size else None


def draw_one(
    axes: Axes,
    image: np.ndarray,
    drawing: Drawing,
    layer: int,
    scale: tuple[float, float] | None,
) -> None:
    """One cell of the sheet."""
    height, width = image.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(image, interpolation="nearest")
    painted = drawing.layers[layer]
    settings = dict(extent=extent, interpolation="nearest")
    if painted.ndim == 2:
        axes.set_facecolor(UNKNOWN_DEPTH)
        axes.images[0].remove()
        settings.update(cmap=DEPTH_COLORS, vmin=scale[0], vmax=scale[1])
    axes.imshow(painted, **settings)
    outlines = [withStroke(linewidth=3.2, foreground="black", alpha=0.7)]
    for (x1, y1, x2, y2), color in drawing.boxes:
        box = Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1)
        box.set(fill=False, edgecolor=color, linewidth=1.8, path_effects=outlines)
        axes.add_patch(box)


def draw_legend(figure: plt.Figure, classes: Classes, columns: int) -> None:
    """The classes' colors, in rows of about equal length."""
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
    task = task_of(predictions)
    lines = paint(samples, predictions, classes, task, args.score)
    figure = draw(lines, list(predictions), classes, task, args.zoom)
    figure.savefig(args.out)
    print(args.out)


if __name__ == "__main__":
    sys.exit(run_tool(main))
