"""The papers' tables: data in published/, and here what the numbers in them are."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

PUBLISHED = Path(__file__).parent / "published"
DESCRIBING = ("config", "model", "upsampler", "params", "gflops")


class Metric(NamedTuple):
    """A column of a table.

    Args:
        heading: its title.
        key: its name in our logs.
        factor: makes percent of what is logged.
        lower_is_better: whether it measures errors.
        decimals: of ours, where the paper prints no number of a row that could show them.
    """

    heading: str
    key: str
    factor: float = 1.0
    lower_is_better: bool = False
    decimals: int = 2


class Row(NamedTuple):
    """What a paper prints of a model, each number as printed; empty where it prints none."""

    config: str
    model: str
    upsampler: str
    params: str = ""
    gflops: str = ""
    values: tuple[str, ...] = ()


class Table(NamedTuple):
    """A table of a paper, or of the README of its code.

    Args:
        name: of its file in published/.
        title: what was measured.
        source: paper and number of the table.
        metrics: columns of values.
        has_baseline: whether the first row of each model is what the others are compared with.
        note: what a reader has to know, a sentence or more.
        printed_in: what the lines of printed numbers are called.
    """

    name: str
    title: str
    source: str
    metrics: tuple[Metric, ...]
    has_baseline: bool = True
    note: str = ""
    printed_in: str = "paper"

    def rows(self) -> list[Row]:
        with (PUBLISHED / f"{self.name}.csv").open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names = (*DESCRIBING, *(metric.heading for metric in self.metrics))
            if tuple(reader.fieldnames or ()) != names:
                raise ValueError(f"columns of {file.name} must be {', '.join(names)}")
            return [
                Row(
                    *(row[name] for name in DESCRIBING),
                    values=tuple(row[metric.heading] for metric in self.metrics),
                )
                for row in reader
            ]


def coco(kind: str) -> tuple[Metric, ...]:
    """Average precisions as CocoMetric logs them, from 0 to 1."""
    parts = {"AP": "", "AP50": "_50", "AP75": "_75", "APS": "_s", "APM": "_m", "APL": "_l"}
    return tuple(Metric(heading, f"coco/{kind}_mAP{end}", 100.0) for heading, end in parts.items())


PANOPTIC = tuple(
    Metric(heading, f"coco_panoptic/{key}")
    for heading, key in dict(PQ="PQ", PQth="PQ_th", PQst="PQ_st", SQ="SQ", RQ="RQ").items()
)
MIOU = Metric("mIoU", "mIoU")
BIOU = Metric("bIoU", "bIoU")
AP = coco("bbox")[0]
MASK_AP = coco("segm")[0]._replace(heading="mask AP")
# As mmseg's DepthMetric and mmagic's matting metrics name them.
DEPTH = {
    key: Metric(key, key, lower_is_better=key not in ("d1", "d2", "d3"), decimals=3)
    for key in ("d1", "d2", "d3", "abs_rel", "sq_rel", "rmse", "rmse_log", "log10")
}
DYSAMPLE_DEPTH = ("d1", "d2", "d3", "abs_rel", "rmse", "log10", "rmse_log", "sq_rel")
SAPA_DEPTH = ("d1", "d2", "d3", "abs_rel", "sq_rel", "rmse", "rmse_log", "log10")
SAD = Metric("SAD", "SAD", lower_is_better=True)
MATTING = (
    SAD,
    Metric("MSE", "MSE", lower_is_better=True, decimals=4),
    Metric("Grad", "Grad", lower_is_better=True),
    Metric("Conn", "Conn", lower_is_better=True),
)
SEGFORMER_NOTE = (
    "The authors report the best of SegFormer's evaluations, which are 16,000 iterations apart."
)
MASK_RCNN_NOTE = (
    "The paper's text counts three upsampling stages, the caption of its table the parameters of "
    "four; the configs have the three of the usual FPN."
)
DEPTH_NOTE = (
    "d1, d2 and d3 are the shares of pixels whose depth is wrong by less than a factor of 1.25, "
    "its square and its cube."
)
MATTING_NOTE = (
    "Both are of the same network. The authors report the best evaluation by SAD, on the images of "
    "the test."
)
ABLATION_NOTE = (
    "The table names no models: its rows with four groups have the results of Tables 4 and 6, so "
    "the models are theirs. Rows that are settings of an existing config have none of their own."
)

TABLES = (
    Table(
        "dysample_table4",
        "SegFormer-B1 on ADE20K",
        "DySample, Table 4",
        (MIOU, BIOU),
        note=SEGFORMER_NOTE + " The paper does not say how it averages bIoU.",
    ),
    Table("dysample_table5", "MaskFormer on ADE20K", "DySample, Table 5", (MIOU,)),
    Table(
        "dysample_table6",
        "Faster R-CNN on COCO, 1x",
        "DySample, Table 6",
        coco("bbox"),
        note="These models have four upsampling stages (`fpn-p6`).",
    ),
    Table(
        "dysample_table7_bbox",
        "Mask R-CNN on COCO, 1x: boxes",
        "DySample, Table 7",
        coco("bbox"),
        note=MASK_RCNN_NOTE + " The README of the authors' code prints other numbers for R50 with "
        "DySample+: AP50 60.6, APS 23.5, APM 43.1, APL 50.8.",
    ),
    Table(
        "dysample_table7_segm",
        "Mask R-CNN on COCO, 1x: masks",
        "DySample, Table 7",
        coco("segm"),
        note=MASK_RCNN_NOTE + " The README of the authors' code prints other numbers for R50 with "
        "DySample+: AP50 57.4, AP75 38.1, APS 17.6, APM 38.5, APL 51.5.",
    ),
    Table("dysample_table8", "Panoptic FPN on COCO, 1x", "DySample, Table 8", PANOPTIC),
    Table(
        "sapa_table2",
        "Semantic segmentation on ADE20K",
        "SAPA, Table 2",
        (MIOU,),
        note=SEGFORMER_NOTE + " For MaskFormer and Mask2Former neither paper says which evaluation "
        "it reports.",
    ),
    Table(
        "sapa_table3",
        "Faster R-CNN on COCO, 1x",
        "SAPA, Table 3",
        coco("bbox"),
        note="The usual FPN with three upsampling stages.",
    ),
    Table(
        "dysample_table9",
        "DepthFormer on NYU Depth V2",
        "DySample, Table 9",
        tuple(DEPTH[key] for key in DYSAMPLE_DEPTH),
        note=DEPTH_NOTE + " The baseline's row equals, in all columns, the last evaluation in the "
        "log that the toolbox of DepthFormer published: it was taken over from there, and is of a "
        "model that interpolates with align_corners=True, where the paper's text says False. The "
        "config has True.",
    ),
    Table(
        "sapa_table4",
        "BTS on NYU Depth V2",
        "SAPA, Table 4",
        tuple(DEPTH[key] for key in SAPA_DEPTH),
        note=DEPTH_NOTE + " The baseline's row equals, in all columns, that of ResNet-50 in the "
        "README of BTS: it was taken over from there. The code of BTS keeps the best evaluation of "
        "each metric by itself, so that a row may be of several; ours is the last.",
    ),
    Table(
        "sapa_table5",
        "Matting on Composition-1k, baselines of SAPA's paper",
        "SAPA, Table 5",
        MATTING,
        note="Baselines were published twice, with other numbers: these are those of SAPA's paper. "
        + MATTING_NOTE,
    ),
    Table(
        "fade_readme_matting",
        "Matting on Composition-1k, baselines of the READMEs",
        "the code of SAPA and FADE",
        MATTING,
        note="The second set of baselines, as the READMEs of the code of SAPA and FADE have it. "
        "The rows of SAPA are those of its paper. " + MATTING_NOTE,
        printed_in="README",
    ),
    Table(
        "dysample_table1",
        "Where the points start",
        "DySample, Table 1",
        (MIOU, AP),
        has_baseline=False,
        note="One group, offsets without a scope factor. The models are those of Table 3.",
    ),
    Table(
        "dysample_table2",
        "Static scope factor",
        "DySample, Table 2",
        (MIOU, AP),
        has_baseline=False,
        note="One group. The models are those of Table 3.",
    ),
    Table(
        "dysample_table3",
        "Groups and dynamic scope factor",
        "DySample, Table 3",
        (MIOU, AP),
        has_baseline=False,
        note=ABLATION_NOTE,
    ),
    Table(
        "dysample_figure5",
        "Number of groups",
        "DySample, Fig. 5",
        (MIOU, AP),
        has_baseline=False,
        note="The figure prints no numbers; those shown are in the paper's text. The models are "
        "those of Table 3.",
    ),
    Table(
        "sapa_table6",
        "Similarity, embedding, normalization and kernel size of SAPA",
        "SAPA, Table 6",
        (MIOU,),
        has_baseline=False,
        note="SAPA-B with kernel size 5, embedding dimension 32 and exp, but for what a row names.",
    ),
)

METRICS = tuple(dict.fromkeys(metric for table in TABLES for metric in table.metrics))
# Metrics of the configs in a directory that no table has.
FURTHER = {
    "a2u_matting": MATTING,
    "bts": tuple(DEPTH[key] for key in SAPA_DEPTH),
    "deeplabv3plus": (MIOU,),
    "depthformer": tuple(DEPTH[key] for key in DYSAMPLE_DEPTH),
    "faster_rcnn": (AP,),
    "hrnet": (MIOU,),
    "mask2former": (MIOU, BIOU),
    "mask_rcnn": (AP, MASK_AP),
    "maskformer": (MIOU, BIOU),
    "panoptic_fpn": (PANOPTIC[0],),
    "retinanet": (AP,),
    "rtmdet": (AP,),
    "segformer": (MIOU, BIOU),
    "segnet": (MIOU,),
    "sem_fpn": (MIOU,),
    "shapes": (
        *(AP, MASK_AP, PANOPTIC[0], MIOU),
        *(DEPTH["d1"], DEPTH["abs_rel"], MATTING[0], MATTING[1]),
    ),
    "unet": (MIOU,),
    "upernet": (MIOU, BIOU),
    "yolox": (AP,),
}
